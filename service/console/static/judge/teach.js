/** "Wrong? Teach it": puts a judged picture into Teach with the right label. */

import { html, signal } from "../core/ui.js";
import { t } from "../core/i18n.js";
import { go, say } from "../core/state.js";
import { single } from "../pictures/read.js";
import { asLabel, draftOf } from "../teach/draft.js";

const asking = signal(0); // id of the picture whose label is asked for
const typed = signal("");
export const taught = signal(new Map()); // id -> label

function teach(each, label) {
  const draft = draftOf(each.client);
  const file = each.file instanceof File ? each.file : new File([each.file], each.name, { type: each.file.type });
  draft.add(single(file, each.note), draft.groupNamed(label));
  taught.value = new Map([...taught.value, [each.id, label]]);
  asking.value = 0;
  typed.value = "";
  say(t("teachit.done", { label }), { text: t("teachit.open"), run: () => go("teach", each.client) });
}

/** The label with which a picture waits in Teach; none once it was sent or taken out. */
function waitingLabel(each) {
  const label = taught.value.get(each.id);
  const draft = draftOf(each.client);
  const group = label && draft.groups.value.find(({ name }) => asLabel(name) === asLabel(label));
  return group && draft.in(group.id).some(({ name }) => name === each.name) ? label : null;
}

const MOST_CHIPS = 12;

/** The classes by probability. The one that the verdict named comes last, because it is said to be wrong. */
function offered({ scores, verdict, label }) {
  const named = verdict === "unknown" ? null : label;
  const others = Object.entries(scores).filter(([name]) => name !== named);
  const sorted = others.sort(([, one], [, other]) => other - one).map(([name]) => name);
  return [...sorted, ...(named ? [named] : [])].slice(0, MOST_CHIPS);
}

export function TeachIt({ each }) {
  const label = waitingLabel(each);
  if (label) return html`<p class="muted">${t("teachit.done", { label })}</p>`;
  if (asking.value !== each.id) {
    return html`<button type="button" class="quiet" onClick=${() => (asking.value = each.id)}>${t("teachit")}</button>`;
  }
  const named = (event) => {
    event.preventDefault();
    if (typed.value.trim()) teach(each, typed.value.trim());
  };
  return html`<fieldset class="teachit">
    <legend>${t("teachit.ask")}</legend>
    <div class="row tight">
      ${offered(each.prediction).map((name) => html`<button type="button" class="chip" onClick=${() => teach(each, name)}>${name}</button>`)}
    </div>
    <form class="row tight" onSubmit=${named}>
      <input aria-label=${t("teachit.other")} placeholder=${t("teachit.other")} value=${typed.value} onInput=${(event) => (typed.value = event.target.value)} maxlength="64" />
      <button type="submit" disabled=${!typed.value.trim()}>${t("teachit.add")}</button>
      <button type="button" class="quiet" onClick=${() => (asking.value = 0)}>${t("cancel")}</button>
    </form>
  </fieldset>`;
}
