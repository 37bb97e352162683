/** What goes with a picture where the model takes more: a note, or numbers such as readings, as they are typed. */

import { html } from "./ui.js";
import { Problem } from "./api.js";
import { t } from "./i18n.js";

/** What a model takes beside each picture, "text" or "vector", that a person can type; else null. */
export const takenBeside = (model) => (["text", "vector"].includes(model?.net.second) ? model.net.second : null);

/** The numbers of a text, with blanks, commas or semicolons between them; null if something is no number. */
function numbersIn(text) {
  const numbers = text.split(/[\s,;，；]+/).filter(Boolean).map(Number);
  return numbers.every(Number.isFinite) ? numbers : null;
}

/** Whether a model can take what was typed; nothing typed is always fine. */
export const fits = (model, typed) =>
  takenBeside(model) !== "vector" || !typed.trim() || numbersIn(typed)?.length === model.net.second_size;

/** Add what goes with the next picture to a form, empty for a picture without. */
export function appendBeside(form, model, typed) {
  const kind = takenBeside(model);
  if (!fits(model, typed)) throw new Problem("numbers_malformed", "", "");
  if (kind === "text") form.append("texts", typed);
  if (kind === "vector") form.append("vectors", typed.trim() && JSON.stringify(numbersIn(typed)));
}

/**
 * The field for what goes with pictures; nothing where the model takes pictures alone.
 * @param {object} props
 * @param {object} props.model
 * @param {"class" | "picture" | "judge"} props.of what the pictures are
 * @param {string} [props.name] of the class
 * @param {string} props.value
 * @param {string} [props.placeholder] otherwise an example
 * @param {(typed: string) => void} props.change
 */
export function BesideField({ model, of, name, value, placeholder, change }) {
  const kind = takenBeside(model);
  if (!kind) return null;
  const wrong = !fits(model, value);
  return html`<label class="field">${t(`beside.${kind}.${of}`, { name, n: model.net.second_size })}
    <input value=${value} placeholder=${placeholder || t(`beside.${kind}.example`)} aria-invalid=${String(wrong)} onInput=${(event) => change(event.target.value)} maxlength=${kind === "text" ? 500 : undefined} autocomplete="off" /></label>`;
}
