/** Sends pictures as adaptations, follows their jobs, and publishes. */

import { batch } from "../core/ui.js";
import { call, list, part, patiently, Problem, problemOf, readVersion, send, wait } from "../core/api.js";
import { appendBeside } from "../core/beside.js";
import { t } from "../core/i18n.js";
import { running, setRunning } from "../core/memory.js";
import { clients, go, readClients, route, say, service } from "../core/state.js";
import { adopt, asLabel, draftOf } from "./draft.js";

const FORM_BYTES = 16 * 1024;
const PART_BYTES = 2 * 1024;
const POLL_S = 1;
const MOST_FAILED_POLLS = 60; // in a row

/**
 * Split pictures into requests that the service accepts, with all classes in the first one if possible.
 * @template {{file: Blob, label: string}} T
 * @param {T[]} samples
 * @param {{files: number, adapt_body_bytes: number}} limit
 * @returns {T[][]}
 */
function inRequests(samples, limit) {
  const groups = [[]];
  let used = FORM_BYTES;
  for (const sample of oneOfEachInTurn(samples)) {
    const size = sample.file.size + PART_BYTES;
    const group = groups.at(-1);
    if (group.length && (group.length === limit.files || used + size > limit.adapt_body_bytes)) {
      groups.push([]);
      used = FORM_BYTES;
    }
    groups.at(-1).push(sample);
    used += size;
  }
  return groups;
}

function oneOfEachInTurn(samples) {
  const byLabel = new Map();
  for (const sample of samples) byLabel.set(sample.label, [...(byLabel.get(sample.label) ?? []), sample]);
  const lists = [...byLabel.values()];
  const longest = Math.max(...lists.map((each) => each.length));
  return Array.from({ length: longest }, (_, turn) => lists.map((each) => each[turn]).filter(Boolean)).flat();
}

/** Send all new pictures of a draft and show the version that they made. Nothing is lost if it fails. */
export async function adapt(draft) {
  const stop = begin(draft);
  const name = draft.name.value;
  const labels = new Map(draft.groups.value.map((group) => [group.id, asLabel(group.name)]));
  const sent = draft.pictures.value.map((picture) => ({ ...picture, label: labels.get(picture.group), note: draft.noteOf(picture) }));
  const requests = inRequests(sent, service.value.limits);
  try {
    const creating = creates(draft) ? { "If-None-Match": "*" } : {};
    if (draft.mode.value === "replace" && requests.length > 1) throw new Problem("replace_in_parts", "", "");
    const mode = await startMode(draft, name, stop);
    let made = null;
    for (const [index, samples] of requests.entries()) {
      const last = index === requests.length - 1;
      const form = new FormData();
      form.set("client", name);
      form.set("mode", index ? "extend" : mode);
      form.set("publish", last ? draft.publish.value : "never");
      for (const { file, name: fileName, label, note } of samples) {
        form.append("samples", file, fileName);
        form.append("labels", label);
        appendBeside(form, draft.start, note);
      }
      const what = { client: name, mode: form.get("mode"), publish: form.get("publish"), samples: samples.map(({ id, label, note }) => [id, label, note]) };
      const headers = index ? {} : creating;
      made = await run(draft, "adapt", { what, method: "POST", headers, body: form }, stop, { part: index + 1, parts: requests.length });
      const before = (index || mode === "extend") && draft.arrived?.client === name ? draft.arrived : null;
      const ids = [...(before?.ids ?? []), ...samples.map(({ id }) => id)];
      draft.arrived = last ? null : { client: name, first: before?.first ?? made.version, last: made.version, ids };
    }
    const details = await readVersion(name, made.version);
    batch(() => {
      draft.remove(sent.map((picture) => picture.id));
      draft.result.value = { ...made, details };
      draft.mode.value = "extend";
    });
    await settle(draft);
  } catch (error) {
    if (error.code === "client_exists") await readClients(); // so that the name is shown as taken
    fail(draft, error);
  } finally {
    draft.progress.value = null;
  }
}

/**
 * Follow the job that this window followed for a draft before it was loaded again, and show the version that it makes.
 * The pictures are not in the window any more.
 */
export async function resume(draft) {
  const before = running(draft.client);
  if (draft.resumed) return;
  draft.resumed = true;
  if (!before || draft.progress.value) return;
  draft.name.value = before.client;
  const stop = begin(draft);
  const show = (values) => {
    draft.progress.value = { ...draft.progress.value, ...values };
  };
  try {
    const made = await follow(draft, before, show, stop.signal);
    draft.result.value = { ...made, details: await readVersion(before.client, made.version) };
    await settle(draft);
  } catch (error) {
    if (error.status !== 404) fail(draft, error);
    else setRunning(draft.client, null); // it ended long ago, or its client was deleted
  } finally {
    draft.progress.value = null;
  }
}

/** Whether there is a client of the name that a new one is to have. Its pictures would be joined. */
export const nameTaken = (draft) => !draft.client && Boolean(clients.value?.some((each) => each.client === draft.name.value));

/**
 * Whether the request is to create its client: another tablet may have made one of this name since the page read the
 * clients. A name that was taken before has been shown as taken, and a request of this page whose answer was lost may
 * have made the client.
 */
function creates(draft) {
  const name = draft.name.value;
  const sentBefore = [...draft.keys.keys()].some((sent) => JSON.parse(sent)[1].client === name);
  return !(draft.client || nameTaken(draft) || draft.arrived?.client === name || sentBefore);
}

/**
 * Return the mode of the first request. If a part that failed is tried again, and pictures that had arrived before it
 * were taken out since, take back all that had arrived.
 */
async function startMode(draft, name, stop) {
  const { arrived } = draft;
  const here = new Set(draft.pictures.value.map(({ id }) => id));
  if (arrived?.client !== name || arrived.ids.every((id) => here.has(id))) return draft.mode.value;
  const first = await readVersion(name, arrived.first);
  if (first.parent === null) return "replace";
  const before = new Map((await readVersion(name, first.parent)).sample_list.map(({ digest, label }) => [digest, label]));
  const sent = new Set((await readVersion(name, arrived.last)).sample_list.map(({ digest }) => digest));
  const now = (await list(`clients/${part(name)}/samples`, "samples")).samples.filter(({ digest }) => sent.has(digest));
  const remove = now.filter(({ digest }) => !before.has(digest)).map(({ digest }) => digest);
  const changed = now.filter(({ digest, label }) => before.has(digest) && before.get(digest) !== label);
  const relabel = Object.fromEntries(changed.map(({ digest }) => [digest, before.get(digest)]));
  if (remove.length || changed.length) {
    const json = { relabel, remove, publish: "never" };
    await sendCorrections(draft, name, json, stop);
  }
  draft.arrived = null;
  return draft.mode.value;
}

/**
 * Adapt again on the kept samples with other labels, or without some of them.
 * @param {import("./draft.js").Draft} draft
 * @param {string} client
 * @param {{relabel: Record<string, string>, remove: string[]}} corrections
 */
export async function correct(draft, client, corrections) {
  const stop = begin(draft);
  try {
    const json = { ...corrections, publish: "auto" };
    const made = await sendCorrections(draft, client, json, stop);
    draft.result.value = { ...made, details: await readVersion(client, made.version) };
    await settle(draft);
    return true;
  } catch (error) {
    fail(draft, error);
    return false;
  } finally {
    draft.progress.value = null;
  }
}

function sendCorrections(draft, client, json, stop) {
  return run(draft, `clients/${part(client)}/corrections`, { what: json, method: "POST", json }, stop, { part: 1, parts: 1 });
}

function begin(draft) {
  const stop = new AbortController();
  batch(() => {
    draft.problem.value = null;
    draft.progress.value = { stage: "send", part: 1, parts: 1, cancel: () => stop.abort() };
  });
  return stop;
}

function fail(draft, error) {
  if (error.name === "AbortError" || error.code === "job_cancelled") return;
  const refused = !draft.client && error.code === "unknown_client"; // adapting makes clients, but not for every key
  draft.problem.value = refused ? new Problem("name_refused", "", "") : problemOf(error);
  if (!isOpen(draft)) tell(draft, draft.problem.value.words);
}

async function settle(draft) {
  await readClients();
  const open = isOpen(draft);
  if (!draft.client) {
    adopt(draft);
    if (open) go("teach", draft.client);
  }
  if (!open) tell(draft, t("made.elsewhere", { client: draft.client, version: draft.result.value.version }));
  await draft.readKept();
}

const isOpen = (draft) => route.value.view === "teach" && draftOf() === draft;

/** Say how an adaptation ended to someone who looks at something else by now. */
const tell = (draft, text) => say(text, { text: t("teachit.open"), run: () => go("teach", draft.client) });

/**
 * Send one adaptation as a job and follow it to its end. The same request has the same Idempotency-Key until it succeeds:
 * if its answer was lost, trying again makes no second version.
 * @param {import("./draft.js").Draft} draft
 * @param {string} path
 * @param {RequestInit & {what: unknown, json?: unknown}} options `what` is all that makes the request another one
 * @param {AbortController} stop
 * @param {{part: number, parts: number}} counts
 */
async function run(draft, path, { what, headers = {}, ...options }, stop, counts) {
  const show = (values) => {
    draft.progress.value = { ...draft.progress.value, ...counts, ...values };
  };
  show({ stage: "send", away: false });
  const sent = JSON.stringify([path, what]);
  if (!draft.keys.has(sent)) draft.keys.set(sent, { Prefer: "respond-async", "Idempotency-Key": randomKey(), ...headers });
  const request = () => call(path, { ...options, headers: draft.keys.get(sent), signal: stop.signal });
  try {
    const answer = await patiently(request, (seconds) => show({ stage: "busy", seconds }), stop.signal);
    const made = await follow(draft, answer, show, stop.signal);
    draft.keys.delete(sent);
    return made;
  } catch (error) {
    if (error.code === "client_exists") draft.keys.delete(sent); // the next attempt may join that client
    throw error;
  }
}

/** A key that makes a repetition harmless. `crypto.randomUUID` is missing on pages over plain HTTP. */
const randomKey = () => [...crypto.getRandomValues(new Uint32Array(4))].map((word) => word.toString(16)).join("-");

async function follow(draft, job, show, stopped) {
  setRunning(draft.client, job);
  const cancel = () => send(`jobs/${job.job}`, { method: "DELETE" }).catch(() => null);
  stopped.addEventListener("abort", cancel, { once: true });
  const ended = (await byEvents(job, show, stopped)) ?? (await byPolling(job, show, stopped));
  setRunning(draft.client, null);
  if (ended.state === "done") return ended.result;
  const { code, title, detail, status } = ended.problem ?? { code: "job_cancelled", title: t("cancelled"), detail: "" };
  throw new Problem(code, title, detail, status);
}

const progressOf = ({ stage, steps }) => ({ stage, share: steps.of ? steps.done / steps.of : null, away: false });

/** Follow by server-sent events. Returns the job once it has ended, or null if the stream broke. */
function byEvents(job, show, stopped) {
  return new Promise((done) => {
    const events = new EventSource(`jobs/${job.job}/events`);
    const close = (value) => {
      events.close();
      done(value);
    };
    events.addEventListener("progress", (event) => show(progressOf(JSON.parse(event.data))));
    for (const name of ["done", "failed", "cancelled"]) {
      events.addEventListener(name, (event) => close(JSON.parse(event.data)));
    }
    events.addEventListener("error", () => close(null));
    stopped.addEventListener("abort", () => close({ state: "cancelled" }), { once: true });
  });
}

/** Follow by asking again and again. The job goes on while the service cannot be reached, so that is no end yet. */
async function byPolling(job, show, stopped) {
  for (let failed = 0; ; ) {
    let pause = POLL_S;
    try {
      const now = await call(`jobs/${job.job}`, { signal: stopped });
      if (["done", "failed", "cancelled"].includes(now.state)) return now;
      show(progressOf(now));
      failed = 0;
    } catch (error) {
      const refused = error.status >= 400 && error.status < 500 && error.status !== 429;
      failed += 1;
      if (refused || stopped.aborted || failed === MOST_FAILED_POLLS) throw error;
      show({ away: true });
      pause = Math.min(10, error.retryAfter || POLL_S);
    }
    await wait(pause, stopped);
  }
}

/** Let a version go live, if what is live has not changed since the page read it. */
export const publish = (client, version) =>
  call(`clients/${part(client)}/aliases/live`, { method: "PUT", json: { version }, headers: ifUnchanged(client) });

/** Make the version live again that was live before, if what is live has not changed since the page read it. */
export const rollBack = (client) =>
  call(`clients/${part(client)}/rollback`, { method: "POST", headers: ifUnchanged(client) });

function ifUnchanged(client) {
  const known = clients.value?.find((each) => each.client === client);
  const live = known?.aliases.find((alias) => alias.alias === "live");
  return live ? { "If-Match": live.etag } : { "If-None-Match": "*" };
}
