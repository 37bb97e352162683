/** Pictures that are judged: sent one small request after the other, newest first. */

import { signal } from "../core/ui.js";
import { call, list, part, patiently, problemOf, send } from "../core/api.js";
import { appendBeside, takenBeside } from "../core/beside.js";
import { t } from "../core/i18n.js";
import { clients, models, readClients, say } from "../core/state.js";
import { inTurn, prepare } from "../pictures/prepare.js";
import { single } from "../pictures/read.js";

/**
 * @typedef {object} Judged
 * @property {number} id
 * @property {string} client
 * @property {string} name
 * @property {Blob} file
 * @property {string} note what goes with it, as it was typed
 * @property {object} [model] that takes it
 * @property {string} url
 * @property {object | null} prediction
 * @property {number} version
 * @property {import("../core/api.js").Problem | null} problem
 */

export const judged = signal(/** @type {Judged[]} */ ([]));

/** What goes with the next pictures, and the model, of each client whose live version takes more than pictures. */
export const notes = signal(new Map());

/** Know whether the live version of a client takes more than pictures. It is asked for only where some model does. */
export async function readNotes({ client, live }) {
  const key = `${client}/${live}`;
  if (key === asked || !models.value.some(takenBeside)) return;
  asked = key;
  const found = await call(`clients/${part(client)}/versions?after=${live - 1}&limit=1`).catch(() => null);
  const model = models.value.find(({ name }) => name === found?.versions[0]?.model);
  if (takenBeside(model)) notes.value = new Map([...notes.value, [client, { model, note: noteOf(client).note }]]);
}

/** What goes with the next picture of a client. */
export const noteOf = (client) => notes.value.get(client) ?? { note: "" };

export const setNote = (client, note) => {
  notes.value = new Map([...notes.value, [client, { ...noteOf(client), note }]]);
};

/** Clients whose model cannot show what decided. */
export const unexplained = signal(new Set());

let lastId = 0;
let asked = ""; // client and version that `readNotes` has asked about
let sending = Promise.resolve();

/** Judge pictures with the live version of a client. */
export function judge(client, { entries, skipped }) {
  const added = entries.map(({ file }) => {
    lastId += 1;
    return { id: lastId, client, name: file.name, file, ...noteOf(client), url: "", prediction: null, version: 0, problem: null };
  });
  judged.value = [...added, ...judged.value];
  if (skipped.length) say(t("skipped", { n: skipped.length }));
  for (const each of added) enqueue(each);
}

/** Judge one of the pictures that a client was taught with, chosen at random. */
export async function judgeKept(client) {
  try {
    const { samples } = await list(`clients/${part(client)}/samples`, "samples");
    const { name, digest } = samples[Math.floor(Math.random() * samples.length)];
    const content = await (await send(`clients/${part(client)}/samples/${digest}`)).blob();
    judge(client, single(new File([content], name, { type: content.type })));
  } catch (error) {
    say(problemOf(error).words);
  }
}

function enqueue(each) {
  sending = sending.then(() => inTurn(() => judgeOne(each)));
}

export function again(each) {
  change(each.id, { problem: null, prediction: null });
  enqueue(each);
}

export function forget(id) {
  const gone = judged.value.find((each) => each.id === id);
  if (gone?.url) URL.revokeObjectURL(gone.url);
  judged.value = judged.value.filter((each) => each.id !== id);
}

export function forgetAll(client) {
  for (const each of judged.value) if (each.client === client) forget(each.id);
}

const change = (id, values) => {
  judged.value = judged.value.map((each) => (each.id === id ? { ...each, ...values } : each));
};

async function judgeOne(each) {
  if (!judged.value.some(({ id }) => id === each.id)) return; // removed while it waited
  try {
    const prepared = await prepare(each.file);
    if (prepared.url) URL.revokeObjectURL(prepared.url);
    const before = judged.value.find(({ id }) => id === each.id);
    if (!before) return; // removed while it was read
    if (before.url) URL.revokeObjectURL(before.url);
    const url = prepared.look ? URL.createObjectURL(prepared.file) : "";
    change(each.id, { url, file: prepared.file });
    const answer = await predict(each.client, prepared.file, each, true);
    change(each.id, { prediction: answer.predictions[0], version: answer.version });
  } catch (error) {
    change(each.id, { problem: problemOf(error) });
  }
}

/**
 * Classify one picture, with an explanation where the client's model can give one.
 * @param {string} client
 * @param {Blob} file
 * @param {{name: string, note: string, model?: object}} about
 * @param {boolean} explain
 */
export async function predict(client, file, about, explain) {
  const wanted = explain && !unexplained.value.has(client);
  const form = new FormData();
  form.set("client", client);
  form.set("images", file, about.name);
  appendBeside(form, about.model, about.note);
  if (wanted) form.set("explain", "true");
  try {
    const answer = await patiently(() => call("predict", { method: "POST", body: form }));
    if (clients.value?.find((each) => each.client === client)?.live !== answer.version) await readClients();
    return answer;
  } catch (error) {
    if (error.code !== "explanation_unsupported") throw error;
    unexplained.value = new Set([...unexplained.value, client]);
    return predict(client, file, about, false);
  }
}
