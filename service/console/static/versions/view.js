/** Versions: what was live when, and the way back. */

import { classes, html, signal } from "../core/ui.js";
import { part } from "../core/api.js";
import { icon } from "../core/icons.js";
import { ago, bytes, moment, percent, t } from "../core/i18n.js";
import { Dialog, Empty, Estimate, inWords, ProblemBox, Rough, Spinner } from "../core/parts.js";
import { current, may } from "../core/state.js";
import { Reasons } from "../teach/result.js";
import { draftOf } from "../teach/draft.js";
import { Confusion, Suspects } from "../teach/report.js";
import { Compare } from "./compare.js";
import {
  busy,
  compare,
  compared,
  drift,
  exporting,
  exportVersion,
  goBack,
  goLive,
  history,
  keyOf,
  opened,
  openReport,
  problem,
  readHistory,
  rollbackTarget,
  timeline,
} from "./state.js";

const confirming = signal(null); // {text, yes, run}

export function Versions() {
  const client = current.value;
  if (!client) return html`<div class="page"><${Empty} title=${t("versions.none")} text=${t("versions.none.hint")}><a class="button primary" href="#/teach">${t("teach")}</a><//></div>`;
  readHistory(client.client);
  const shown = history.value?.client === client.client ? history.value : null;
  return html`<div class="page">
    <header class="page-head">
      <div>
        <h1>${t("versions.title", { client: client.client })}</h1>
        <p class="lead">${client.live ? t("versions.live", { version: client.live }) : t("versions.notlive")}</p>
      </div>
      ${shown && html`<${RollBack} shown=${shown} client=${client.client} />`}
    </header>
    ${drift.value?.client === client.client && html`<${LastDay} found=${drift.value} />`}
    <${ProblemBox} problem=${problem.value} retry=${() => readHistory(client.client, true)} />
    ${!shown && !problem.value && html`<${Spinner} text=${t("reading")} />`}
    ${shown?.versions.length > 1 && html`<${CompareBar} shown=${shown} client=${client.client} />`}
    ${compared.value?.client === client.client && html`<${Compare} ...${compared.value} />`}
    ${shown && html`<ol class="timeline">${timeline(shown).map((entry) => html`<${Entry} key=${entry.version ? `v${entry.version.version}` : `m${entry.move.alias}${entry.move.revision}`} entry=${entry} shown=${shown} />`)}</ol>`}
    ${
      confirming.value &&
      html`<${Dialog} title=${t("confirm")} onClose=${() => (confirming.value = null)}>
        <p>${confirming.value.text}</p>
        <div class="row">
          <button type="button" class="primary" disabled=${busy.value} onClick=${confirm}>${confirming.value.yes}</button>
          <button type="button" onClick=${() => (confirming.value = null)}>${t("cancel")}</button>
        </div>
      <//>`
    }
  </div>`;
}

async function confirm() {
  const asked = confirming.value;
  await asked.run();
  if (confirming.value === asked) confirming.value = null;
}

/** What the live version judged lately, from the client's prediction log. */
function LastDay({ found }) {
  const text = t("lastday", { n: found.total.images, unknown: percent(found.total.unknown, 1) });
  if (!found.drifting) return html`<p class="muted">${text}</p>`;
  return html`<div class="card bad" role="status"><p>${icon("warn")} <strong>${t("lastday.drifting")}</strong></p><p>${text}</p></div>`;
}

function RollBack({ shown, client }) {
  const moves = shown.moves.filter((move) => move.alias === "live");
  const target = rollbackTarget(moves, new Set(shown.versions.map((version) => version.version)));
  if (!target || !may("adapt")) return null;
  const ask = () => {
    confirming.value = { text: t("rollback.sure", { client, version: shown.live, target }), yes: t("rollback.yes", { version: target }), run: () => goBack(client) };
  };
  return html`<button type="button" disabled=${busy.value} onClick=${ask}>${icon("back")} ${t("rollback", { version: target })}</button>`;
}

function CompareBar({ shown, client }) {
  const numbers = shown.versions.map((version) => version.version);
  const newest = shown.versions.at(-1);
  const before = compared.value?.before ?? (numbers.includes(newest.parent) ? newest.parent : numbers.at(-2));
  const after = compared.value?.after ?? newest.version;
  const choose = (which, value) => compare(client, which === "before" ? value : before, which === "after" ? value : after);
  const select = (which, value) =>
    html`<label class="field inline">${t(`compare.${which}`)}
      <select value=${value} onChange=${(event) => choose(which, Number(event.target.value))}>
        ${numbers.map((each) => html`<option value=${each}>${t("version", { version: each })}</option>`)}
      </select></label>`;
  return html`<div class="row">
    ${select("before", before)} ${select("after", after)}
    <button type="button" onClick=${() => compare(client, before, after)}>${t("compare")}</button>
  </div>`;
}

const origin = ({ version, parent }) => (parent ? t("extends", { version: parent }) : t(version === 1 ? "fresh" : "fresh.again"));

function Entry({ entry, shown }) {
  if (entry.move) return html`<${Move} move=${entry.move} />`;
  const { version } = entry;
  const isLive = version.version === shown.live;
  const found = opened.value?.key === keyOf(version) ? opened.value : null;
  const toggle = () => (found ? (opened.value = null) : openReport(version));
  const ask = () => {
    confirming.value = {
      text: t(version.gate === "hold" ? "golive.held" : "golive.sure", { client: version.client, version: version.version, live: shown.live ?? "–" }),
      yes: t("publish.yes", { version: version.version }),
      run: () => goLive(version.client, version.version),
    };
  };
  const others = version.aliases.filter((alias) => alias !== "live");
  return html`<li class=${classes("entry", isLive && "is-live")}>
    <article class="card">
      <header class="row">
        <h2>${t("version", { version: version.version })}</h2>
        ${isLive && html`<span class="pill good">${icon("check")} ${t("live")}</span>`}
        ${!isLive && version.gate === "hold" && html`<span class="pill held">${t("held")}</span>`}
        ${others.map((alias) => html`<span class="pill">${alias}</span>`)}
        <time class="muted end" datetime=${version.created_at} title=${moment(version.created_at)}>${ago(version.created_at)}</time>
      </header>
      <p>${inWords(version.estimated_accuracy)}</p>
      <p class="muted">${version.classes.join(", ")} · ${t("samples", { n: version.samples })} · ${origin(version)}</p>
      <div class="row">
        ${!isLive && may("adapt") && html`<button type="button" disabled=${busy.value} onClick=${ask}>${t(version.gate === "hold" ? "publish.anyway" : "golive")}</button>`}
        <button type="button" aria-expanded=${String(Boolean(found))} onClick=${toggle}>${t("report")}</button>
        ${
          may("admin") &&
          html`<a class="button quiet" download href=${`clients/${part(version.client)}/versions/${version.version}/weights`}>${icon("download")} ${t("weights", { size: bytes(version.weights.bytes) })}</a>
            <button type="button" class="quiet" disabled=${Boolean(exporting.value)} onClick=${() => exportVersion(version)}>${t(exporting.value === keyOf(version) ? "exporting" : "export")}</button>`
        }
      </div>
      ${found && html`<${ReportOf} ...${found} retry=${() => openReport(version)} />`}
    </article>
  </li>`;
}

function ReportOf({ details, problem, retry }) {
  if (problem) return html`<${ProblemBox} problem=${problem} retry=${retry} />`;
  if (!details) return html`<${Spinner} text=${t("reading")} />`;
  const { report } = details;
  return html`<div class="report">
    <p><strong>${inWords(report.estimated_accuracy, report.interval)}</strong></p>
    <${Estimate} share=${report.estimated_accuracy} interval=${report.interval} />
    <${Rough} details=${details} />
    <${Reasons} gate=${report.gate} open />
    ${details.version === current.value?.latest && html`<${Suspects} draft=${draftOf(details.client)} client=${details.client} details=${details} />`}
    <${Confusion} client=${details.client} details=${details} />
    <dl class="facts">
      <dt>${t("fact.model")}</dt><dd>${details.model}</dd>
      <dt>${t("fact.device")}</dt><dd>${details.device}</dd>
      <dt>${t("fact.unknown")}</dt><dd>${report.unknown_threshold === null ? "–" : percent(report.unknown_threshold)}</dd>
      <dt>${t("fact.when")}</dt><dd>${moment(details.created_at)}</dd>
      <dt>${t("fact.digest")}</dt><dd class="digest">${details.weights.digest}</dd>
    </dl>
  </div>`;
}

/** An alias move that no version tells: published by hand, or rolled back. */
function Move({ move }) {
  const values = { alias: move.alias, version: move.version, previous: move.previous ?? "–" };
  const how = move.reason === "rollback" ? "rollback" : move.previous === null ? "first" : "set";
  const key = `move.${how}${move.alias === "live" ? ".live" : ""}`;
  const by = move.by && move.by.id !== "anonymous" ? move.by.name || move.by.id : "";
  return html`<li class="entry move">
    <p>${icon(move.reason === "rollback" ? "back" : "right")} <span>${t(key, values)}${by && ` ${t("move.by", { name: by })}`}</span>
      <time class="muted" datetime=${move.moved_at} title=${moment(move.moved_at)}>${ago(move.moved_at)}</time></p>
  </li>`;
}

