/** The result of an adaptation: the verdict in words, why it is live or held, and what to do next. */

import { Component, html, signal } from "../core/ui.js";
import { problemOf } from "../core/api.js";
import { icon } from "../core/icons.js";
import { has, percent, t } from "../core/i18n.js";
import { Estimate, inWords, ProblemBox, Rough, sentence } from "../core/parts.js";
import { address, may, readClients, say } from "../core/state.js";
import { Confusion, Suspects } from "./report.js";
import { publish } from "./send.js";

/** What was brought into view: each result once, wherever the page was scrolled to. */
let seen = null;

function bringIntoView(element, details) {
  if (!element || seen === details) return;
  seen = details;
  element.focus({ preventScroll: true });
  element.scrollIntoView({ block: "start" });
}

export function Result({ draft, made }) {
  const { report, details, client, version } = made;
  const isLive = made.live === version;
  return html`<section class="card result" tabindex="-1" ref=${(element) => bringIntoView(element, details)} aria-label=${t("result.title", { version })}>
    <header class="row">
      <span class=${`pill ${isLive ? "good" : "held"}`}>${icon(isLive ? "check" : "warn")} ${t(isLive ? "result.live" : "result.held", { version })}</span>
      <button type="button" class="bare end" aria-label=${t("close")} onClick=${() => (draft.result.value = null)}>${icon("close")}</button>
    </header>
    <p class="verdict" role="status">${inWords(report.estimated_accuracy, report.interval)}</p>
    <${Estimate} share=${report.estimated_accuracy} interval=${report.interval} />
    <${Rough} details=${details} />
    <${Reasons} gate=${report.gate} open=${!isLive} />
    <div class="row">
      ${isLive && html`<a class="button primary" href=${address("judge", client)}>${t("result.judge")} ${icon("right")}</a>`}
      ${!isLive && may("adapt") && html`<${PublishAnyway} key=${`${client}/${version}`} draft=${draft} made=${made} />`}
    </div>
    <${Suspects} draft=${draft} client=${client} details=${details} />
    <${Confusion} client=${client} details=${details} />
  </section>`;
}

/** Values of reasons that are shares, and those that are counts which choose the form of a text. */
const SHARES = ["estimate", "floor", "low", "high", "lower_bound"];
const COUNTS = ["samples", "copies", "more"];

/** A reason of the gate in the user's language; null where there is no text for its code. */
function reasonInWords({ code, values }) {
  const key = `reason.${code}`;
  if (!has(key)) return null;
  const entry = (each) => (typeof each === "string" ? each : t(`${key}.entry`, each));
  const shown = Object.entries(values).map(([name, value]) => {
    if (SHARES.includes(name)) return [name, percent(value, 1)];
    if (!Array.isArray(value)) return [name, value];
    const listed = value.map(entry).join(", ");
    return [name, values.more ? t("and.more", { shown: listed, n: values.more }) : listed];
  });
  const counted = COUNTS.find((name) => name in values);
  return t(key, { ...Object.fromEntries(shown), n: values[counted] });
}

/** Why the gate decided as it did: open where it held the version, folded where all is well. */
export function Reasons({ gate, open }) {
  const coded = gate.details.length > 0; // versions of earlier releases have sentences only
  const reasons = coded ? gate.details : gate.reasons.map((text) => ({ code: "", text, values: {} }));
  return html`<details class="reasons" open=${open}>
    <summary>${t(gate.decision === "hold" ? "gate.why.held" : "gate.why.live")}</summary>
    <ul>${reasons.map((reason) => {
      const words = reasonInWords(reason);
      return words ? html`<li>${words}</li>` : html`<li lang="en">${sentence(reason.text)}</li>`;
    })}</ul>
  </details>`;
}

class PublishAnyway extends Component {
  publishing = signal(null); // null, "asked", "running" or a problem

  run = async () => {
    const { draft, made } = this.props;
    this.publishing.value = "running";
    const problem = await publish(made.client, made.version).then(() => null, problemOf);
    await readClients();
    this.publishing.value = problem;
    if (problem) return;
    draft.result.value = { ...made, live: made.version };
    say(t("published", { version: made.version }));
  };

  render({ made }) {
    const state = this.publishing.value;
    const set = (value) => () => (this.publishing.value = value);
    if (state === "asked" || state === "running") {
      return html`<span>${t("publish.sure")}</span>
        <button type="button" class="primary" disabled=${state === "running"} onClick=${this.run}>${t("publish.yes", { version: made.version })}</button>
        <button type="button" onClick=${set(null)}>${t("cancel")}</button>`;
    }
    return html`<button type="button" onClick=${set("asked")}>${t("publish.anyway")}</button>
      ${state && html`<${ProblemBox} problem=${state} retry=${this.run} />`}`;
  }
}
