/** What is being taught: the classes and new pictures of each client, kept in memory until they are sent. */

import { batch, computed, signal } from "../core/ui.js";
import { call, list, part, problemOf } from "../core/api.js";
import { fits } from "../core/beside.js";
import { t } from "../core/i18n.js";
import { remember, remembered } from "../core/memory.js";
import { clients, models, route } from "../core/state.js";
import { examine } from "../pictures/doctor.js";
import { inTurn, prepare } from "../pictures/prepare.js";

/**
 * @typedef {object} Group a class as it is being edited
 * @property {number} id
 * @property {string} name
 * @property {string} [note] of those of its new pictures that have none of their own
 * @property {boolean} [known] whether the client has pictures of it, so that its name stays as it is
 *
 * @typedef {object} Picture
 * @property {number} id
 * @property {number} group id of its class
 * @property {string} name
 * @property {Blob} file what will be sent
 * @property {string} note what is sent with it, as it was typed, if the model takes a text or numbers
 * @property {string} url of its thumbnail
 * @property {boolean} ready
 * @property {boolean} shrunk
 * @property {boolean} unreadable
 * @property {string} digest
 * @property {import("../pictures/doctor.js").Look | null} look
 *
 * @typedef {object} Arrived what the service has of pictures whose later parts failed
 * @property {string} client
 * @property {number} first version that the first part made
 * @property {number} last version that the last part made
 * @property {number[]} ids of the pictures
 */

let lastId = 0;
const newId = () => {
  lastId += 1;
  return lastId;
};

/** A class name as the service stores it. */
export const asLabel = (text) => text.normalize("NFC").trim();

const firstGroups = () => [t("class.good"), t("class.bad")].map((name) => ({ id: newId(), name }));

export class Draft {
  /** @param {string} client empty for a client that has no name yet */
  constructor(client) {
    this.client = client;
    this.name = signal(client || freeName());
    this.groups = signal(client ? [] : firstGroups());
    /** @type {{value: Picture[]}} */
    this.pictures = signal([]);
    this.model = signal(/** @type {string | null} */ (null)); // that the client chose; null: the default
    this.kept = signal(/** @type {object[] | null} */ (null));
    this.unread = signal(null); // why the kept samples could not be read
    this.retained = signal(true);
    this.mode = signal("extend");
    this.publish = signal("auto");
    this.skipped = signal([]);
    this.progress = signal(null);
    this.problem = signal(null);
    this.result = signal(null);
    this.examined = new Map();
    this.marks = computed(() => {
      const all = this.pictures.value;
      if (all.every(({ ready }) => ready)) this.examined = examine(all); // once, because thousands take long
      return this.examined;
    });
    this.read = false;
    this.resumed = false; // whether a job that ran before the page was loaded was looked for
    this.nameNext = 0; // id of a class that was added to be named next
    /** @type {Arrived | null} */
    this.arrived = null;
    this.keys = new Map(); // Idempotency-Key of each request that has not succeeded yet
  }

  /** Read the classes and pictures that the client has. */
  async readKept() {
    if (!this.client) return;
    this.read = true;
    this.unread.value = null;
    this.model.value = await call(`clients/${part(this.client)}/settings`).then(({ model }) => model, () => null);
    try {
      this.setKept((await list(`clients/${part(this.client)}/samples`, "samples")).samples);
    } catch (error) {
      if (error.code === "samples_not_kept") this.retained.value = false;
      if (["samples_not_kept", "unknown_client"].includes(error.code)) this.setKept([]);
      else this.unread.value = problemOf(error);
    }
  }

  setKept(samples) {
    batch(() => {
      this.kept.value = samples;
      const known = new Set(inOrder(this.client, samples.map((sample) => sample.label)).map((label) => this.groupNamed(label)));
      this.groups.value = this.groups.value.map((group) => ({ ...group, known: known.has(group.id) }));
      if (samples.length) remember("classes", this.client, this.groups.value.map((group) => asLabel(group.name)));
      if (!this.groups.value.length) this.groups.value = firstGroups();
    });
  }

  /** The class of this name; a new one if there is none. */
  groupNamed(name) {
    const label = asLabel(name);
    const found = this.groups.value.find((group) => asLabel(group.name) === label);
    if (found) return found.id;
    const group = { id: newId(), name: label };
    this.groups.value = [...this.groups.value, group];
    return group.id;
  }

  addGroup() {
    return this.groupNamed(freeClass(this.groups.value.map((group) => group.name)));
  }

  /** Change the name or the note of a class. */
  edit(id, values) {
    this.groups.value = this.groups.value.map((group) => (group.id === id ? { ...group, ...values } : group));
  }

  /** The model that the next version is adapted from. */
  get start() {
    return models.value.find(({ name }) => name === this.model.value) ?? models.value[0];
  }

  /** The note that is sent with a picture. */
  noteOf = (picture) => picture.note.trim() || (this.groups.value.find(({ id }) => id === picture.group)?.note ?? "").trim();

  removeGroup(id) {
    batch(() => {
      this.groups.value = this.groups.value.filter((group) => group.id !== id);
      this.remove(this.in(id).map((picture) => picture.id));
    });
  }

  in = (id) => this.pictures.value.filter((picture) => picture.group === id);
  keptIn = (group) => (group.known ? this.kept.value.filter((sample) => sample.label === asLabel(group.name)) : []);

  /** Whether an earlier class has the name of this one. */
  isRepeated(group) {
    const label = asLabel(group.name);
    return Boolean(label) && this.groups.value.find((each) => asLabel(each.name) === label).id !== group.id;
  }

  /**
   * Add pictures to `group`, unless they come from several folders; else each to the class of its folder, else to the
   * first class without pictures.
   * @param {import("../pictures/read.js").Intake} intake
   * @param {number} [group]
   */
  add({ entries, skipped }, group) {
    const folders = new Set(entries.map(({ label }) => label));
    if (folders.size > 1 || !this.groups.value.some(({ id }) => id === group)) group = undefined; // or it was removed by now
    batch(() => {
      this.skipped.value = skipped;
      if (group === undefined && entries.some((entry) => entry.label)) this.dropEmptyGroups();
      const loose = group ?? (entries.some((entry) => !entry.label) ? this.looseGroup() : 0);
      const added = entries.map(({ file, label, note = "" }) => ({
        id: newId(),
        group: group === undefined && label ? this.groupNamed(label) : loose,
        name: file.name,
        file,
        note,
        url: "",
        ready: false,
        shrunk: false,
        unreadable: false,
        digest: "",
        look: null,
      }));
      this.pictures.value = [...this.pictures.value, ...added];
      for (const picture of added) inTurn(() => this.prepare(picture));
    });
  }

  async prepare(picture) {
    if (!this.pictures.value.some(({ id }) => id === picture.id)) return;
    try {
      this.change(picture.id, { ...(await prepare(picture.file)), ready: true });
    } catch {
      this.remove([picture.id]); // its file was moved, deleted or changed since it was chosen
      this.skipped.value = [...this.skipped.value, t("skipped.one", { name: picture.name, reason: t("skipped.gone") })];
    }
  }

  looseGroup() {
    const empty = this.groups.value.find((group) => !this.in(group.id).length);
    return empty ? empty.id : this.addGroup();
  }

  /** Folders bring their own names, so classes that nobody has used make room for them. */
  dropEmptyGroups() {
    this.groups.value = this.groups.value.filter((group) => this.in(group.id).length || this.keptIn(group).length);
  }

  change(id, values) {
    this.pictures.value = this.pictures.value.map((picture) => (picture.id === id ? { ...picture, ...values } : picture));
  }

  remove(ids) {
    const gone = new Set(ids);
    for (const picture of this.pictures.value) if (gone.has(picture.id) && picture.url) URL.revokeObjectURL(picture.url);
    this.pictures.value = this.pictures.value.filter((picture) => !gone.has(picture.id));
  }

  /** What stands in the way of sending, as a text, or null. */
  get obstacle() {
    if (!NAME.test(this.name.value)) return t("obstacle.name");
    if (!this.pictures.value.length) return t("obstacle.pictures");
    if (this.pictures.value.some((picture) => !picture.ready)) return t("obstacle.reading");
    const wrong = this.pictures.value.find((picture) => !fits(this.start, this.noteOf(picture)));
    if (wrong) return t("obstacle.numbers", { name: wrong.name, n: this.start.net.second_size });
    if (this.groups.value.some((group) => !group.name.trim() && this.in(group.id).length)) return t("obstacle.class");
    if (this.client && !this.kept.value) return t(this.unread.value ? "obstacle.unread" : "obstacle.kept");
    const repeated = this.groups.value.find((group) => this.isRepeated(group));
    if (repeated) return t("obstacle.same", { name: asLabel(repeated.name) });
    const used = this.groups.value.filter(
      (group) => this.in(group.id).length || (this.mode.value === "extend" && this.keptIn(group).length),
    );
    return used.length < 2 ? t("obstacle.two") : null;
  }
}

const NAME = /^[a-z0-9][a-z0-9._-]{0,63}$/;

/** A client's name as close as possible to what was typed. */
export const asName = (text) =>
  text
    .toLowerCase()
    .replace(/\s+/g, "-")
    .replace(/[^a-z0-9._-]/g, "")
    .replace(/^[._-]+/, "")
    .slice(0, 64);

function freeName() {
  const taken = new Set((clients.value ?? []).map((each) => each.client));
  for (let number = 1; ; number += 1) {
    const name = number === 1 ? "my-line" : `my-line-${number}`;
    if (!taken.has(name)) return name;
  }
}

function freeClass(taken) {
  for (let number = taken.length + 1; ; number += 1) {
    const name = t("class.numbered", { n: number });
    if (!taken.includes(name)) return name;
  }
}

/** Labels in the order that they had here before, then by name. */
function inOrder(client, labels) {
  const before = remembered("classes", client, []);
  const place = (label) => (before.includes(label) ? before.indexOf(label) : before.length);
  return [...new Set(labels)].sort((one, other) => place(one) - place(other) || one.localeCompare(other));
}

/** @type {Map<string, Draft>} */
const drafts = new Map();

/** The draft of the client in the address. */
export function draftOf(client = route.value.client) {
  if (!drafts.has(client)) drafts.set(client, new Draft(client));
  return drafts.get(client);
}

/** Whether there are pictures that were not sent. */
export const picturesWait = () => [...drafts.values()].some((draft) => draft.pictures.value.length > 0);

/** A client was adapted from the draft without a name: it becomes that client's, with the pictures that waited there. */
export function adopt(draft) {
  drafts.delete("");
  draft.client = draft.name.value;
  const other = drafts.get(draft.client);
  drafts.set(draft.client, draft);
  if (!other?.pictures.value.length) return;
  const labels = new Map(other.groups.value.map((group) => [group.id, group.name]));
  const entries = other.pictures.value.map(({ file, name, group, note }) => ({
    file: new File([file], name, { type: file.type }),
    note,
    label: labels.get(group),
  }));
  draft.add({ entries, skipped: [] });
}
