/** Judge: verdicts for pictures and for the live camera. */

import { classes, html, signal } from "../core/ui.js";
import { dragged, FileButton } from "../core/intake.js";
import { BesideField } from "../core/beside.js";
import { icon } from "../core/icons.js";
import { t } from "../core/i18n.js";
import { Empty, ProblemBox, Spinner } from "../core/parts.js";
import { address, current, DEMO, may, route } from "../core/state.js";
import { again, forget, forgetAll, judge, judged, judgeKept, noteOf, readNotes, setNote, unexplained } from "./state.js";
import { Heat } from "./heat.js";
import { Live, live } from "./live.js";
import { TeachIt } from "./teach.js";
import { Bars, Grounds, Verdict } from "./verdict.js";

const heat = signal(false);
const CARD_BARS = 3;

export function Judge() {
  const client = current.value;
  if (!client) return html`<div class="page"><${Empty} title=${t("judge.noclient")} text=${t("judge.noclient.hint")}><a class="button primary" href="#/teach">${t("teach")}</a><//></div>`;
  if (!client.live) {
    return html`<div class="page"><${Empty} title=${t("judge.nolive", { client: client.client })} text=${t("judge.nolive.hint")}>
      <a class="button primary" href=${address("teach")}>${t("teach")}</a><a class="button" href=${address("versions")}>${t("versions")}</a>
    <//></div>`;
  }
  readNotes(client);
  const { note, model } = noteOf(client.client);
  const take = (intake) => judge(client.client, intake);
  const mine = judged.value.filter((each) => each.client === client.client);
  const over = dragged.value === "page";
  return html`<div class="page">
    <header class="page-head">
      <div>
        <h1>${t("judge.title", { client: client.client })}</h1>
        <p class="lead">${t("judge.lead", { version: client.live })}</p>
      </div>
    </header>
    <${BesideField} model=${model} of="judge" value=${note} change=${(typed) => setNote(client.client, typed)} />
    <div class=${classes("dropzone", over && "over", (mine.length || live.value) && "small")}>
      <p>${icon("image")} <span>${t("judge.drop")}</span></p>
      <div class="row center">
        <${FileButton} kind="primary" take=${take} name=${t("choose")}>${icon("image")} ${t("choose")}<//>
        ${client.client === DEMO && may("adapt") && html`<button type="button" onClick=${() => judgeKept(DEMO)}>${icon("judge")} ${t("judge.demo")}</button>`}
        <button type="button" aria-pressed=${String(live.value)} onClick=${() => (live.value = !live.value)}>${icon("camera")} ${t(live.value ? "live.stop" : "live.start")}</button>
      </div>
    </div>
    ${live.value && html`<${Live} key=${client.client} client=${client.client} />`}
    ${mine.length > 0 && html`<${Tools} client=${client.client} count=${mine.length} />`}
    ${mine.length > 1 && html`<${Totals} predictions=${mine.map((each) => each.prediction).filter(Boolean)} />`}
    <ul class="judged">
      ${mine.map((each) => html`<${Card} key=${each.id} each=${each} live=${client.live} />`)}
    </ul>
  </div>`;
}

function Tools({ client, count }) {
  const impossible = unexplained.value.has(client);
  return html`<div class="row">
    <label class="switch"><input type="checkbox" checked=${heat.value && !impossible} disabled=${impossible} onChange=${(event) => (heat.value = event.target.checked)} /> ${t("heat.show")}</label>
    ${heat.value && !impossible && html`<span class="legend"><span class="swatch" aria-hidden="true"></span>${t("heat.legend")}</span>`}
    ${impossible && html`<span class="muted">${t("explain.none")}</span>`}
    <button type="button" class="quiet end" onClick=${() => forgetAll(client)}>${t("judge.clear", { n: count })}</button>
  </div>`;
}

/** How many pictures were judged as which class. */
function Totals({ predictions }) {
  if (!predictions.length) return null;
  const known = predictions.filter((each) => each.verdict !== "unknown").map((each) => each.label);
  const totals = [...new Set(known)].map((label) => ({ label, n: known.filter((each) => each === label).length }));
  const counts = totals.sort((one, other) => other.n - one.n).map((each) => t("judge.total", each));
  counts.push(t("judge.total.unknown", { n: predictions.length - known.length }));
  return html`<p class="totals">${t("judge.totals", { pictures: t("samples", { n: predictions.length }), counts: counts.join(", ") })}</p>`;
}

function Card({ each, live }) {
  const { prediction, problem, version } = each;
  return html`<li class="card judged-card">
    <div class="stage">
      ${each.url ? html`<img src=${each.url} alt=${each.name} />` : html`<span class="tile-blank">${each.name}</span>`}
      ${heat.value && prediction?.explanation && html`<${Heat} map=${prediction.explanation} label=${prediction.label} />`}
    </div>
    <div class="judged-body">
      <div class="row one-line"><span class="picture-name" title=${each.name}>${each.name}</span>
        <button type="button" class="bare end" aria-label=${t("remove.one", { name: each.name })} onClick=${() => forget(each.id)}>${icon("close")}</button></div>
      ${!prediction && !problem && html`<${Spinner} text=${t("judge.running")} />`}
      <${ProblemBox} problem=${problem} retry=${() => again(each)} />
      ${prediction && html`<${Verdict} prediction=${prediction} />`}
      ${prediction && html`<${Bars} scores=${prediction.scores} most=${CARD_BARS} />`}
      ${prediction && html`<${Grounds} prediction=${prediction} note=${each.note} />`}
      ${prediction && version !== live && html`<p class="muted">${t("judge.before", { version })} <button type="button" class="quiet" onClick=${() => again(each)}>${t("judge.again", { version: live })}</button></p>`}
      ${prediction && may("adapt") && html`<${TeachIt} each=${each} />`}
    </div>
  </li>`;
}

/** What takes the pictures that are dropped or pasted: the client that is open now, not after reading. */
export const takeForJudge = () => {
  const client = current.value;
  return (intake) => {
    if (client?.live) judge(client.client, intake);
  };
};
