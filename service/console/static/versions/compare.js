/** The difference of two versions: the estimate, each class, and the pictures that are judged differently. */

import { classes, html } from "../core/ui.js";
import { pictureOf } from "../core/api.js";
import { icon } from "../core/icons.js";
import { percent, t } from "../core/i18n.js";
import { ProblemBox, Spinner } from "../core/parts.js";
import { may } from "../core/state.js";
import { compared } from "./state.js";

const share = (value) => (value === null || value === undefined ? "–" : percent(value));

export function Compare({ client, before, after, diff, problem }) {
  return html`<section class="card" aria-label=${t("compare.title", { before, after })}>
    <header class="row">
      <h2>${t("compare.title", { before, after })}</h2>
      <button type="button" class="bare end" aria-label=${t("close")} onClick=${() => (compared.value = null)}>${icon("close")}</button>
    </header>
    <${ProblemBox} problem=${problem} />
    ${!diff && !problem && html`<${Spinner} text=${t("reading")} />`}
    ${diff && html`<${Difference} client=${client} diff=${diff} />`}
  </section>`;
}

function Difference({ client, diff }) {
  return html`<p class="verdict small">${t("compare.estimate", { before: share(diff.estimate_before), after: share(diff.estimate_after) })}</p>
    <p class="muted">${t("compare.samples", { kept: diff.samples_kept, added: diff.samples_added, removed: diff.samples_removed })}
      ${diff.added.length > 0 && ` ${t("compare.added", { names: diff.added.join(", ") })}`}
      ${diff.removed.length > 0 && ` ${t("compare.removed", { names: diff.removed.join(", ") })}`}</p>
    <div class="scroll" tabindex="0" role="region" aria-label=${t("compare.classes")}>
      <table class="plain">
        <caption>${t("compare.classes")}</caption>
        <thead><tr><th scope="col">${t("class")}</th><th scope="col">${t("version", { version: diff.before })}</th><th scope="col">${t("version", { version: diff.after })}</th></tr></thead>
        <tbody>${diff.classes.map((each) => html`<tr><th scope="row">${each.label}</th><td>${judged(each.before)}</td><td>${judged(each.after)}</td></tr>`)}</tbody>
      </table>
    </div>
    ${!diff.changed.length && html`<h3>${t("compare.same")}</h3>`}
    <${Changes} client=${client} title="compare.labels" samples=${diff.changed.filter(relabelled)} />
    <${Changes} client=${client} title="compare.changed" samples=${diff.changed.filter((sample) => !relabelled(sample))} />`;
}

const judged = (each) => (each ? (each.judged ? t("compare.right", { right: each.right, n: each.judged }) : "–") : t("compare.absent"));

const relabelled = (sample) => sample.label_before !== sample.label_after;

function Changes({ client, title, samples }) {
  if (!samples.length) return null;
  return html`<h3>${t(title, { n: samples.length })}</h3>
    <ul class="pictures">${samples.map((sample) => html`<${Changed} key=${sample.digest} client=${client} sample=${sample} />`)}</ul>`;
}

function Changed({ client, sample }) {
  const call = (prediction, label) => {
    if (!prediction) return html`<span class="muted">–</span>`;
    if (prediction.verdict === "unknown") return html`<span class="outcome">${icon("unknown")} ${t("unknown.short", { label: prediction.label })}</span>`;
    const right = prediction.label === label;
    return html`<span class=${classes("outcome", right ? "right" : "wrong")}>${icon(right ? "check" : "close")} ${prediction.label}</span>`;
  };
  return html`<li>
    ${may("adapt") && html`<img src=${pictureOf(client, sample.digest, 256)} alt=${sample.name} loading="lazy" />`}
    <span class="picture-name">${sample.name}</span>
    <span class="muted">${relabelled(sample) ? t("compare.relabelled", { before: sample.label_before, after: sample.label_after }) : t("compare.is", { label: sample.label_after })}</span>
    <span class="change">${call(sample.before, sample.label_before)} ${icon("right")} ${call(sample.after, sample.label_after)}</span>
  </li>`;
}
