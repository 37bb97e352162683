/** What cross-validation found: which classes were confused, with the pictures, and labels that may be wrong. */

import { classes, html, signal } from "../core/ui.js";
import { pictureOf } from "../core/api.js";
import { icon } from "../core/icons.js";
import { percent, t } from "../core/i18n.js";
import { remember, remembered } from "../core/memory.js";
import { Dialog, Spinner } from "../core/parts.js";
import { go, may } from "../core/state.js";
import { correct } from "./send.js";

const cell = signal(null); // the open cell of a confusion table: {client, truth, predicted, samples}

/** Rows are labels, columns predictions. A cell opens the pictures behind it. */
export function Confusion({ client, details }) {
  const held = details.sample_list.filter((sample) => sample.held_out);
  if (!held.length) return null;
  const counts = (truth, predicted) => held.filter((sample) => sample.label === truth && sample.held_out.label === predicted);
  const wrong = held.filter((sample) => sample.label !== sample.held_out.label).length;
  return html`<details open=${wrong > 0}>
    <summary>${wrong ? t("confusion.wrong", { n: wrong, of: held.length }) : t("confusion.right", { n: held.length })}</summary>
    <p class="muted">${t("confusion.hint")}</p>
    <div class="scroll" tabindex="0" role="region" aria-label=${t("confusion.title")}>
      <table class="matrix">
        <caption class="hidden">${t("confusion.title")}</caption>
        <thead><tr><th scope="col"><span class="hidden">${t("confusion.truth")}</span></th>${details.classes.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
        <tbody>
          ${details.classes.map((truth) => {
            const total = held.filter((sample) => sample.label === truth).length;
            return html`<tr><th scope="row">${truth}</th>${details.classes.map((predicted) => {
              const samples = counts(truth, predicted);
              return html`<td><${Cell} samples=${samples} total=${total} right=${truth === predicted} open=${() => (cell.value = { client, truth, predicted, samples })} truth=${truth} predicted=${predicted} /></td>`;
            })}</tr>`;
          })}
        </tbody>
      </table>
    </div>
    ${cell.value?.client === client && html`<${CellSheet} ...${cell.value} />`}
  </details>`;
}

function Cell({ samples, total, right, open, truth, predicted }) {
  if (!samples.length) return html`<span class="matrix-none">0</span>`;
  const share = total ? samples.length / total : 0;
  const strength = Math.round(20 + 80 * share);
  return html`<button
    type="button"
    class=${classes("matrix-cell", right ? "right" : "wrong")}
    style=${{ "--strength": `${strength}%` }}
    aria-label=${t("confusion.cell", { n: samples.length, truth, predicted })}
    onClick=${open}
  >${samples.length}</button>`;
}

function CellSheet({ client, truth, predicted, samples }) {
  const title = truth === predicted ? t("cell.right", { truth }) : t("cell.wrong", { truth, predicted });
  return html`<${Dialog} wide title=${title} onClose=${() => (cell.value = null)}>
    <ul class="pictures">
      ${samples.map(
        (sample) => html`<li key=${sample.digest}>
          ${may("adapt") && html`<img src=${pictureOf(client, sample.digest, 256)} alt=${sample.name} loading="lazy" />`}
          <span class="picture-name">${sample.name}</span>
          <span class="muted">${percent(sample.held_out.confidence)}</span>
        </li>`,
      )}
    </ul>
  <//>`;
}

/** Answers about samples whose label may be wrong: "version/digest" -> "keep", "remove" or another label. */
const answers = signal(new Map());

/** Whether there are corrections that were not sent. */
export const answersWait = () => [...answers.value.values()].some((value) => value !== "keep");

const keyOf = (version, { digest }) => `${version.client}/${version.version}/${digest}`;

/** Take an answer, or take it back. "Yes" is remembered with the label, so that it is not asked again. */
function answer(version, sample, value) {
  const key = keyOf(version, sample);
  const next = new Map(answers.value);
  if (next.get(key) === value) next.delete(key);
  else next.set(key, value);
  answers.value = next;
  const { [sample.digest]: _, ...others } = confirmed(version.client);
  remember("confirmed", version.client, next.get(key) === "keep" ? { ...others, [sample.digest]: sample.label } : others);
}

/** Labels that were said to be right here: digest -> label. */
const confirmed = (client) => remembered("confirmed", client, {});

/** The samples that the report suspects. Names may repeat, so the prediction has to fit as well. */
function suspected(details) {
  const issues = details.report.suspects ?? [];
  const fits = (issue, sample) =>
    sample.name === issue.sample && sample.label === issue.label && sample.held_out?.label === issue.predicted;
  return issues.flatMap((issue) => details.sample_list.filter((sample) => fits(issue, sample)).slice(0, 1));
}

/** "Is this really crack?": one tap keeps, relabels or removes; then everything is adapted again. */
export function Suspects({ draft, client, details }) {
  const known = confirmed(client);
  const answered = (sample) => answers.value.get(keyOf(details, sample));
  const samples = suspected(details).filter((sample) => answered(sample) || known[sample.digest] !== sample.label);
  if (!samples.length || !may("adapt")) return null;
  const given = samples.map((sample) => [sample.digest, answered(sample)]).filter(([, value]) => value && value !== "keep");
  const send = async () => {
    const relabel = Object.fromEntries(given.filter(([, value]) => value !== "remove").map(([digest, value]) => [digest, value.label]));
    const remove = given.filter(([, value]) => value === "remove").map(([digest]) => digest);
    if (!(await correct(draft, client, { relabel, remove }))) return;
    answers.value = new Map();
    go("teach", client); // where the result is
  };
  return html`<section class="suspects" aria-label=${t("suspects.title", { n: samples.length })}>
    <h3>${t("suspects.title", { n: samples.length })}</h3>
    <p class="muted">${t("suspects.hint")}</p>
    <ul class="suspect-list">
      ${samples.map((sample) => html`<${Suspect} key=${sample.digest} details=${details} sample=${sample} />`)}
    </ul>
    ${
      draft.progress.value
        ? html`<${Spinner} text=${t("suspects.running")} />`
        : html`<button type="button" class="primary" disabled=${!given.length} onClick=${send}>${given.length ? t("suspects.send", { n: given.length }) : t("suspects.none")}</button>`
    }
  </section>`;
}

function Suspect({ details, sample }) {
  const chosen = answers.value.get(keyOf(details, sample));
  const relabel = typeof chosen === "object" ? chosen : null;
  const choice = (value, on, text, mark) =>
    html`<button type="button" class=${classes("toggle", on && "on")} aria-pressed=${String(on)} onClick=${() => answer(details, sample, value)}>${mark && icon(mark)} ${text}</button>`;
  const other = relabel ?? { label: sample.held_out.label };
  return html`<li class="suspect">
    <img src=${pictureOf(details.client, sample.digest, 256)} alt=${sample.name} loading="lazy" />
    <div>
      <p class="question">${t("suspects.question", { label: sample.label })}</p>
      <p class="muted">${t("suspects.looks", { label: sample.held_out.label, share: percent(sample.held_out.confidence) })}</p>
      <div class="row tight">
        ${choice("keep", chosen === "keep", t("suspects.keep"), "check")}
        ${choice(other, Boolean(relabel), t("suspects.relabel", { label: sample.held_out.label }))}
        ${choice("remove", chosen === "remove", t("remove"), "trash")}
      </div>
    </div>
  </li>`;
}
