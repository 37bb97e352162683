/** The panel beside the classes: what will be sent, what the sample doctor found, Adapt, and its progress. */

import { html } from "../core/ui.js";
import { icon } from "../core/icons.js";
import { t } from "../core/i18n.js";
import { GOOD_START, ProblemBox } from "../core/parts.js";
import { may } from "../core/state.js";
import { adapt } from "./send.js";

export function SendPanel({ draft }) {
  const pictures = draft.pictures.value;
  const used = draft.groups.value.filter((group) => draft.in(group.id).length);
  const busy = draft.progress.value;
  const obstacle = draft.obstacle;
  return html`<aside class="send" aria-label=${t("send.title")}>
    <div class="send-inner">
      <p class="send-count">${
        pictures.length ? t("send.count", { n: pictures.length, classes: t("client.classes", { n: used.length }) }) : t("send.nothing")
      }</p>
      ${pictures.length > 0 && html`<${Advice} draft=${draft} used=${used} />`}
      ${!busy && html`<${Doctor} draft=${draft} />`}
      ${draft.skipped.value.length > 0 && html`<${Skipped} draft=${draft} />`}
      ${
        busy
          ? html`<${Progress} now=${busy} />`
          : html`<button type="button" class="primary big" disabled=${Boolean(obstacle) || !may("adapt")} onClick=${() => adapt(draft)} aria-describedby="obstacle">${t("adapt")}</button>`
      }
      ${!busy && html`<p class="muted hint" id="obstacle">${may("adapt") ? (obstacle ?? t("send.ready")) : t("scope.adapt")}</p>`}
      <${ProblemBox} problem=${draft.problem.value} retry=${!busy && !obstacle && (() => adapt(draft))}>
        <p class="muted">${t("nothing.lost")}</p>
      <//>
      ${!busy && html`<${Options} draft=${draft} />`}
    </div>
  </aside>`;
}

function Advice({ draft, used }) {
  const few = used.find((group) => draft.in(group.id).length + draft.keptIn(group).length < GOOD_START);
  if (!few) return null;
  const n = draft.in(few.id).length + draft.keptIn(few).length;
  return html`<p class="muted hint">${t("advice.few", { n, name: few.name, good: GOOD_START })}</p>`;
}

function Doctor({ draft }) {
  const found = [...draft.marks.value.values()].flat();
  if (!found.length) return null;
  const names = [...new Set(found)];
  const kinds = names.map((kind) => t("mark.count", { n: found.filter((each) => each === kind).length, mark: t(`mark.${kind}`) }));
  const title = t("doctor.title", { n: draft.marks.value.size });
  const removable = ["unreadable", "twice"].map((kind) => [kind, [...draft.marks.value].filter(([, marks]) => marks.includes(kind)).map(([id]) => id)]);
  return html`<div class="note warn" role="status">${icon("warn")}
    <div><strong>${names.length === 1 ? t("doctor.kind", { title, mark: t(`mark.${names[0]}`) }) : title}</strong>
      ${names.length > 1 && html`<p>${kinds.join(" · ")}</p>`}
      <p class="muted">${t("doctor.hint")}</p>
      ${removable.map(([kind, ids]) => ids.length > 0 && html`<button type="button" class="quiet" onClick=${() => draft.remove(ids)}>${t(`doctor.${kind}`, { n: ids.length })}</button>`)}
    </div>
  </div>`;
}

function Skipped({ draft }) {
  const names = draft.skipped.value;
  const shown = names.slice(0, 3).join(", ");
  return html`<div class="note"><div><strong>${t("skipped", { n: names.length })}</strong><p>${names.length > 3 ? t("and.more", { shown, n: names.length - 3 }) : shown}</p></div>
    <button type="button" class="bare end" aria-label=${t("close")} onClick=${() => (draft.skipped.value = [])}>${icon("close")}</button></div>`;
}

const STAGES = ["send", "waiting", "decode", "adapt", "examine", "store"];

function Progress({ now }) {
  const step = Math.max(0, STAGES.indexOf(now.stage));
  const within = (step + (now.share ?? 0.3)) / STAGES.length;
  const share = (now.part - 1 + within) / now.parts;
  const words = t(`stage.${now.away ? "away" : now.stage}`, { n: now.seconds ?? 0 });
  return html`<div class="progress">
    <p role="status">${words}${now.parts > 1 && ` ${t("stage.part", { part: now.part, parts: now.parts })}`}</p>
    <progress max="1" value=${share} aria-label=${t("adapt")}></progress>
    <button type="button" class="quiet" onClick=${now.cancel}>${t("cancel")}</button>
  </div>`;
}

function Options({ draft }) {
  return html`<details class="options">
    <summary>${t("options")}</summary>
    <fieldset>
      <legend>${t("options.publish")}</legend>
      ${["auto", "always", "never"].map(
        (value) => html`<label class="choice"><input type="radio" name="publish" checked=${draft.publish.value === value} onChange=${() => (draft.publish.value = value)} /> ${t(`publish.${value}`)}</label>`,
      )}
    </fieldset>
    ${
      draft.client &&
      html`<fieldset>
        <legend>${t("options.mode")}</legend>
        ${["extend", "replace"].map(
          (value) => html`<label class="choice"><input type="radio" name="mode" checked=${draft.mode.value === value} onChange=${() => (draft.mode.value = value)} /> ${t(`mode.${value}`)}</label>`,
        )}
      </fieldset>`
    }
  </details>`;
}
