/** Teach: classes with pictures, and Adapt. */

import { classes, html, signal } from "../core/ui.js";
import { dragged, dropTarget, FileButton } from "../core/intake.js";
import { BesideField } from "../core/beside.js";
import { icon } from "../core/icons.js";
import { t } from "../core/i18n.js";
import { Dialog, ProblemBox } from "../core/parts.js";
import { address, clients, DEMO, may } from "../core/state.js";
import { pictureOf, wait } from "../core/api.js";
import { Camera, cameraAllowed, frameOf } from "../pictures/camera.js";
import { single } from "../pictures/read.js";
import { asLabel, asName, draftOf } from "./draft.js";
import { Result } from "./result.js";
import { SendPanel } from "./panel.js";
import { correct, nameTaken, resume } from "./send.js";

const SHOWN = 60;
const BURST = 10;
const BURST_S = 0.3;

const opened = signal(null); // the picture whose sheet is open
const correcting = signal(null); // {sample, label}: the known picture whose sheet is open, and the label chosen there
const filming = signal(null); // the class that the camera takes pictures for
const everything = signal(new Set()); // classes whose pictures are all shown

export function Teach() {
  const draft = draftOf();
  if (draft.client && !draft.read) draft.readKept();
  if (!draft.resumed) resume(draft);
  const reading = draft.client && !draft.kept.value && !draft.unread.value;
  return html`<div class="page">
    <header class="page-head">
      <div>
        <h1>${draft.client ? t("teach.title", { client: draft.client }) : t("teach.new")}</h1>
        <p class="lead">${t(draft.client ? "teach.lead" : "teach.lead.new")} ${!draft.client && html`<${DemoLink} />`}</p>
      </div>
    </header>
    ${!draft.client && html`<${NameField} draft=${draft} />`}
    ${nameTaken(draft) && html`<p class="note warn" role="status">${icon("warn")} <span>${t("client.exists", { client: draft.name.value })}</span></p>`}
    ${draft.result.value && html`<${Result} draft=${draft} made=${draft.result.value} />`}
    ${!draft.retained.value && html`<p class="note">${t("teach.notkept")}</p>`}
    <${ProblemBox} problem=${draft.unread.value} retry=${() => draft.readKept()}><p class="muted">${t("teach.unread")}</p><//>
    <${Sources} draft=${draft} />
    <div class="teach">
      <fieldset class="groups" disabled=${Boolean(draft.progress.value)}>
        ${reading ? html`<p class="muted">${t("reading")}</p>` : draft.groups.value.map((group) => html`<${GroupCard} key=${group.id} draft=${draft} group=${group} />`)}
        <div class="group-add">
          <button type="button" class="add" onClick=${() => (draft.nameNext = draft.addGroup())}>${icon("add")} ${t("class.add")}</button>
        </div>
      </fieldset>
      <${SendPanel} draft=${draft} />
    </div>
    ${opened.value && html`<${PictureSheet} draft=${draft} />`}
    ${correcting.value && html`<${KeptSheet} draft=${draft} />`}
    ${filming.value && html`<${CameraSheet} draft=${draft} />`}
  </div>`;
}

/** For the first look, while there is nothing but the demo. */
function DemoLink() {
  const [first, ...others] = clients.value ?? [];
  return first?.client === DEMO && !others.length && html`<a href=${address("judge", DEMO)}>${t("teach.demo")}</a>`;
}

/** Pictures of several classes at once. */
function Sources({ draft }) {
  const take = (intake) => draft.add(intake);
  return html`<div class="row">
    <${FileButton} folder take=${take} name=${t("choose.folder")}>${icon("folder")} ${t("choose.folder")}<//>
    <${FileButton} accept=".zip" take=${take} name=${t("choose.zip")}>${icon("folder")} ${t("choose.zip")}<//>
    <span class="muted hint">${t("teach.drop")}</span>
  </div>`;
}

function NameField({ draft }) {
  const typed = (event) => {
    draft.name.value = asName(event.target.value);
    event.target.value = draft.name.value;
  };
  return html`<label class="field name-field">${t("client.name")}
    <input value=${draft.name.value} disabled=${Boolean(draft.progress.value)} onInput=${typed} maxlength="64" autocomplete="off" spellcheck=${false} />
    <span class="muted">${t("client.hint")}</span>
  </label>`;
}

function GroupCard({ draft, group }) {
  const pictures = draft.in(group.id);
  const kept = draft.keptIn(group);
  const take = (intake) => draft.add(intake, group.id);
  const over = dragged.value === group.id;
  const repeated = !group.known && draft.isRepeated(group);
  const name = asLabel(group.name) || t("class.unnamed");
  return html`<section class=${classes("card group", over && "over")} aria-label=${t("class.section", { name })} ...${dropTarget(group.id, take)}>
    <header class="group-head">
      ${
        group.known
          ? html`<h2 class="group-title">${group.name}</h2>`
          : html`<input class="group-name" ref=${(element) => draft.nameNext === group.id && named(draft, element)} aria-label=${t("class.name")} aria-invalid=${String(repeated)} value=${group.name} onInput=${(event) => draft.edit(group.id, { name: event.target.value })} maxlength="64" />`
      }
      <span class="muted count">${counts(pictures.length, kept.length)}</span>
      ${
        !group.known &&
        html`<button type="button" class="bare" aria-label=${t("class.remove", { name })} onClick=${() => draft.removeGroup(group.id)}>${icon("trash")}</button>`
      }
    </header>
    ${repeated && html`<p class="note warn" role="status">${icon("warn")} <span>${t("class.same", { name })}</span></p>`}
    ${!pictures.length && !kept.length && html`<p class="drop-hint">${icon("image")}<span>${t("class.empty")}</span></p>`}
    ${pictures.length > 0 && html`<${Tiles} draft=${draft} pictures=${pictures} group=${group} />`}
    ${pictures.length > 0 && html`<${BesideField} model=${draft.start} of="class" name=${name} value=${group.note ?? ""} change=${(note) => draft.edit(group.id, { note })} />`}
    ${kept.length > 0 && may("adapt") && html`<${Kept} draft=${draft} samples=${kept} />`}
    <footer class="row">
      <${FileButton} take=${take} name=${t("choose.for", { name })}>${icon("image")} ${t("choose")}<//>
      ${
        cameraAllowed()
          ? html`<button type="button" onClick=${() => (filming.value = group.id)} aria-label=${t("camera.for", { name })}>${icon("camera")} ${t("camera")}</button>`
          : html`<${FileButton} take=${take} capture="environment" multiple=${false} name=${t("camera.for", { name })}>${icon("camera")} ${t("camera")}<//>`
      }
    </footer>
  </section>`;
}

/** Let a new class be named at once: its name is chosen, so that typing replaces it. */
function named(draft, element) {
  if (!element) return;
  draft.nameNext = 0;
  element.focus();
  element.select();
}

function counts(fresh, kept) {
  if (fresh && kept) return t("count.both", { fresh, kept });
  return kept ? t("count.kept", { n: kept }) : t("count.new", { n: fresh });
}

function Tiles({ draft, pictures, group }) {
  const all = everything.value.has(group.id);
  const shown = all ? pictures : pictures.slice(0, SHOWN);
  return html`<ul class="tiles">
    ${shown.map((picture) => html`<${Tile} key=${picture.id} draft=${draft} picture=${picture} />`)}
    ${
      shown.length < pictures.length &&
      html`<li><button type="button" class="more" onClick=${() => (everything.value = new Set([...everything.value, group.id]))}>${t("show.all", { n: pictures.length })}</button></li>`
    }
  </ul>`;
}

function Tile({ draft, picture }) {
  const marks = draft.marks.value.get(picture.id) ?? [];
  const words = marks.map((mark) => t(`mark.${mark}`)).join(", ");
  const detail = draft.problem.value?.detail ?? "";
  const refused = detail.startsWith(`${picture.name}: `) || detail.includes(`'${picture.name}' with the label`);
  return html`<li class=${classes("tile", marks.length && "marked", refused && "refused")}>
    <button type="button" class="tile-open" title=${picture.name} aria-label=${words ? `${picture.name}: ${words}` : picture.name} onClick=${() => (opened.value = picture.id)}>
      ${
        picture.url
          ? html`<img src=${picture.url} alt="" decoding="async" />`
          : html`<span class="tile-blank">${picture.ready ? picture.name : html`<span class="spin" aria-hidden="true"></span>`}</span>`
      }
      ${words && html`<span class="tile-mark">${words}</span>`}
    </button>
    <button type="button" class="tile-remove" aria-label=${t("remove.one", { name: picture.name })} onClick=${() => draft.remove([picture.id])}>${icon("close")}</button>
  </li>`;
}

function Kept({ draft, samples }) {
  const shown = samples.slice(0, SHOWN);
  return html`<details class="kept">
    <summary>${t("kept.show", { n: samples.length })}</summary>
    <ul class="tiles">
      ${shown.map(
        (sample) => html`<li class="tile" key=${sample.digest}>
          <button type="button" class="tile-open" title=${sample.name} aria-label=${sample.name} onClick=${() => (correcting.value = { sample, label: sample.label })}>
            <img src=${pictureOf(draft.client, sample.digest, 96)} alt="" loading="lazy" />
          </button>
        </li>`,
      )}
    </ul>
  </details>`;
}

/** A picture that the client knows, large: another label for it, or without it, and adapt again. */
function KeptSheet({ draft }) {
  const { sample, label } = correcting.value;
  const close = () => {
    correcting.value = null;
  };
  const send = (changes) => {
    close();
    correct(draft, draft.client, { relabel: {}, remove: [], ...changes });
  };
  const names = draft.groups.value.map((group) => asLabel(group.name)).filter(Boolean);
  const busy = Boolean(draft.progress.value) || !may("adapt");
  return html`<${Dialog} title=${sample.name} onClose=${close}>
    <img class="sheet-picture" src=${pictureOf(draft.client, sample.digest, 512)} alt=${sample.name} />
    <div class="row">
      <label class="field">${t("kept.label")}
        <select value=${label} disabled=${busy} onChange=${(event) => (correcting.value = { sample, label: event.target.value })}>
          ${names.map((name) => html`<option value=${name}>${name}</option>`)}
        </select>
      </label>
      <button type="button" class="primary" disabled=${busy || label === sample.label} onClick=${() => send({ relabel: { [sample.digest]: label } })}>${t("kept.relabel")}</button>
      <button type="button" class="danger end" disabled=${busy} onClick=${() => send({ remove: [sample.digest] })}>${icon("trash")} ${t("kept.remove")}</button>
    </div>
  <//>`;
}

/** One picture, large, with what the sample doctor says and what can be done. */
function PictureSheet({ draft }) {
  const picture = draft.pictures.value.find(({ id }) => id === opened.value);
  const close = () => {
    opened.value = null;
  };
  if (!picture) return null;
  const marks = draft.marks.value.get(picture.id) ?? [];
  const remove = () => {
    draft.remove([picture.id]);
    close();
  };
  return html`<${Dialog} title=${picture.name} onClose=${close}>
    ${picture.url ? html`<img class="sheet-picture" src=${picture.url} alt=${picture.name} />` : html`<p class="muted">${t("nopreview")}</p>`}
    ${marks.map((mark) => html`<p class="note warn">${icon("warn")} <span><strong>${t(`mark.${mark}`)}</strong> ${t(`mark.${mark}.why`)}</span></p>`)}
    ${picture.shrunk && html`<p class="muted">${t("shrunk")}</p>`}
    <${BesideField} model=${draft.start} of="picture" value=${picture.note} placeholder=${draft.noteOf(picture)} change=${(note) => draft.change(picture.id, { note })} />
    <div class="row">
      <label class="field">${t("move.to")}
        <select value=${picture.group} onChange=${(event) => draft.change(picture.id, { group: Number(event.target.value) })}>
          ${draft.groups.value.map((group) => html`<option value=${group.id}>${group.name}</option>`)}
        </select>
      </label>
      <button type="button" class="danger end" onClick=${remove}>${icon("trash")} ${t("remove")}</button>
    </div>
  <//>`;
}

const taking = signal(0); // pictures left of a burst
const lens = signal(null); // the video of the open camera, once it plays

/** The camera for one class: single pictures, or a burst of ten while the part is moved. */
function CameraSheet({ draft }) {
  const group = draft.groups.value.find(({ id }) => id === filming.value);
  const close = () => {
    filming.value = null;
    lens.value = null;
  };
  const idle = lens.value && !taking.value;
  const take = async () => {
    draft.add(single(await frameOf(lens.value)), group.id);
  };
  const burst = async () => {
    for (taking.value = BURST; taking.value > 0 && lens.value; taking.value -= 1) {
      await take();
      await wait(BURST_S);
    }
    taking.value = 0;
  };
  if (!group) return null;
  return html`<${Dialog} wide title=${t("camera.for", { name: group.name })} onClose=${close}>
    <${Camera} onVideo=${(element) => (lens.value = element)} />
    <div class="row">
      <button type="button" class="primary" disabled=${!idle} onClick=${take}>${icon("camera")} ${t("camera.one")}</button>
      <button type="button" disabled=${!idle} onClick=${burst}>${taking.value ? t("camera.left", { n: taking.value }) : t("camera.burst", { n: BURST })}</button>
      <span class="muted end" aria-live="polite">${t("count.new", { n: draft.in(group.id).length })}</span>
    </div>
    <p class="muted">${t("camera.tip")}</p>
  <//>`;
}

/** What takes the pictures that are dropped beside a class or pasted: the draft that is open now, not after reading. */
export const takeForTeach = () => {
  const draft = draftOf();
  return (intake) => {
    if (may("adapt")) draft.add(intake);
  };
};
