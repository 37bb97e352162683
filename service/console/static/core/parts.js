/** Parts that several views are made of. */

import { classes, Component, html } from "./ui.js";
import { icon } from "./icons.js";
import { ofHundred, percent, t } from "./i18n.js";

const intoView = (element) => element?.scrollIntoView({ block: "nearest" });

/** An error beside what caused it: what happened, what to do, and how to try again. */
export function ProblemBox({ problem, retry, children }) {
  if (!problem) return null;
  return html`<div class="problem" role="alert" ref=${intoView}>
    ${icon("warn")}
    <div>
      <strong>${problem.words}</strong>
      ${problem.detail && problem.detail !== problem.words && html`<p lang=${problem.status ? "en" : undefined}>${sentence(problem.detail)}</p>`}
      ${retry && html`<button type="button" class="quiet" onClick=${retry}>${t("again")}</button>`}
      ${children}
    </div>
  </div>`;
}

/** A text of the service as a sentence: with a capital and a full stop, and without the marks around commands. */
export function sentence(text) {
  const trimmed = text.trim().replaceAll("`", "");
  const ended = /[.!?。]$/.test(trimmed) ? trimmed : `${trimmed}.`;
  return ended.charAt(0).toUpperCase() + ended.slice(1);
}

/** What a view shows while it has nothing: why, and the next step. */
export const Empty = ({ title, text, children }) =>
  html`<div class="empty"><h2>${title}</h2><p>${text}</p>${children && html`<div class="row center">${children}</div>`}</div>`;

/** A modal dialog. Escape, a tap beside it and another address close it. */
export class Dialog extends Component {
  keep = (element) => {
    this.element = element;
  };

  close = () => this.props.onClose();

  componentDidMount() {
    this.element.showModal();
    addEventListener("hashchange", this.close);
  }

  componentWillUnmount() {
    removeEventListener("hashchange", this.close);
  }

  render({ title, onClose, children, wide }) {
    const outside = (event) => event.target === this.element && onClose();
    const cancelled = (event) => {
      event.preventDefault();
      onClose();
    };
    return html`<dialog ref=${this.keep} class=${classes(wide && "wide")} aria-label=${title} onCancel=${cancelled} onClick=${outside}>
      <div class="sheet">
        <header class="sheet-head">
          <h2>${title}</h2>
          <button type="button" class="bare" aria-label=${t("close")} onClick=${onClose}>${icon("close")}</button>
        </header>
        ${children}
      </div>
    </dialog>`;
  }
}

/** A share as a bar from 0 to 100 %, with an optional interval around it. */
export function Estimate({ share, interval }) {
  if (share === null || share === undefined) return html`<p class="muted">${t("estimate.none")}</p>`;
  const [low, high] = interval ?? [share, share];
  const label = interval ? t("estimate.bar", { n: ofHundred(share), low: ofHundred(low), high: ofHundred(high) }) : percent(share);
  return html`<div class="estimate" role="img" aria-label=${label}>
    <div class="estimate-range" style=${{ left: `${low * 100}%`, width: `${Math.max(0.5, (high - low) * 100)}%` }}></div>
    <div class="estimate-mark" style=${{ left: `${share * 100}%` }}></div>
  </div>`;
}

/** The estimate in words: "Recognises about 92 of 100 pictures; between 83 and 97." */
export function inWords(share, interval) {
  if (share === null || share === undefined) return t("verdict.none");
  const n = ofHundred(share);
  if (!interval) return t(share === 1 ? "verdict.all" : "verdict.about", { n });
  const [low, high] = interval.map(ofHundred);
  return t(share === 1 ? "verdict.atleast" : "verdict.between", { n, low, high });
}

/** Pictures of a class from which on its estimate is reliable. */
export const GOOD_START = 10;

/** Says that an estimate is rough where a class has few pictures. */
export function Rough({ details }) {
  const labels = details.sample_list.map((sample) => sample.label);
  const few = details.classes.some((name) => labels.filter((label) => label === name).length < GOOD_START);
  const estimated = details.report.estimated_accuracy !== null;
  return few && estimated && html`<p class="muted">${t("estimate.rough", { good: GOOD_START })}</p>`;
}

/** What a button does while it waits. */
export const Spinner = ({ text }) => html`<span class="spinner" role="status"><span class="spin" aria-hidden="true"></span>${text}</span>`;
