/** A verdict in words, and the classes as bars. */

import { classes, html } from "../core/ui.js";
import { icon } from "../core/icons.js";
import { percent, t } from "../core/i18n.js";

/** The label, or that the picture looks like none of the classes. */
export function Verdict({ prediction }) {
  const unknown = prediction.verdict === "unknown";
  return html`<div class=${classes("call", unknown && "unknown")} role="status">
    ${
      unknown
        ? html`<p class="call-label">${icon("unknown")} ${t("unknown")}</p><p class="muted">${t("unknown.why", { label: prediction.label })}</p>`
        : html`<p class="call-label">${prediction.label}</p><p class="muted">${t("sure", { share: percent(prediction.confidence) })}</p>`
    }
  </div>`;
}

/** What the verdict was made from, where the model takes more than the picture, and how uncertain it is, where known. */
export function Grounds({ prediction, note }) {
  const { modalities, uncertainty, scores } = prediction;
  const share = (nats) => percent(nats / Math.log(Math.max(2, Object.keys(scores).length)));
  return html`${modalities && html`<p class="muted">${t(`grounds.${modalities[1] ?? "picture"}`, { note: note.trim() })}</p>`}
    ${uncertainty && html`<p class="muted">${t("grounds.uncertainty", { total: share(uncertainty.total), data: share(uncertainty.data), model: share(uncertainty.model) })}</p>`}`;
}

/** The most probable classes as bars. */
export function Bars({ scores, most = 5 }) {
  const sorted = Object.entries(scores).sort(([, one], [, other]) => other - one);
  return html`<ul class="bars" aria-label=${t("bars")}>
    ${sorted.slice(0, most).map(
      ([label, share], index) => html`<li key=${label} class=${classes("bar", index === 0 && "first")}>
        <span class="bar-label">${label}</span>
        <span class="bar-track"><span class="bar-fill" style=${{ width: `${share * 100}%` }}></span></span>
        <span class="bar-value">${percent(share)}</span>
      </li>`,
    )}
  </ul>`;
}
