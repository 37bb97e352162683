/** The versions and alias moves of a client, as one time line. */

import { batch, signal } from "../core/ui.js";
import { call, list, part, problemOf, readVersion, send } from "../core/api.js";
import { t } from "../core/i18n.js";
import { readClients, say } from "../core/state.js";
import { publish, rollBack } from "../teach/send.js";

export const history = signal(null); // {client, live, versions, moves}
export const problem = signal(null);
export const busy = signal(false);
export const opened = signal(null); // the open report: {key, details, problem}
export const compared = signal(null); // {before, after, diff, problem}
export const drift = signal(null); // what the live version judged in the last day, if the client keeps a log
export const exporting = signal(""); // key of the version that is exported

let reading = "";

export async function readHistory(client, again = false) {
  if (reading === client && !again) return;
  reading = client;
  if (history.value?.client !== client) {
    batch(() => {
      history.value = null;
      compared.value = null;
      problem.value = null;
      drift.value = null;
    });
  }
  try {
    const path = `clients/${part(client)}`;
    const [versions, moves] = await Promise.all([list(`${path}/versions`, "versions"), list(`${path}/history`, "moves"), readClients()]);
    if (reading !== client) return;
    batch(() => {
      history.value = { client, live: versions.live, versions: versions.versions, moves: moves.moves };
      problem.value = null;
    });
    if (versions.live) readDrift(client);
  } catch (error) {
    if (reading === client) problem.value = problemOf(error);
  }
}

/** It is shown beside the versions, which do not wait for it. */
async function readDrift(client) {
  const found = await call(`clients/${part(client)}/drift`).catch(() => null);
  if (reading === client) drift.value = found?.total.images ? found : null;
}

/** Forget what was read, so that the next visit reads it again. Another client may have the name by then. */
export function leaveHistory() {
  reading = "";
  batch(() => {
    for (const found of [history, problem, compared, opened, drift]) found.value = null;
  });
}

/** Versions and moves together, newest first. A move that came with its version is told by the version. */
export function timeline({ versions, moves }) {
  const entries = versions.map((version) => ({ at: version.created_at, version }));
  for (const move of moves) {
    const own = move.reason === "adapt" && versions.some((version) => version.version === move.version);
    if (!own) entries.push({ at: move.moved_at, move });
  }
  const order = (entry) => (entry.version ? 0 : 1);
  return entries.sort((one, other) => other.at.localeCompare(one.at) || order(other) - order(one));
}

/**
 * The version that a rollback makes live, or null. A rollback counts as the move that it restored, so that repeated
 * rollbacks go further back.
 * @param {{version: number, reason: string}[]} moves of one alias, oldest first
 * @param {Set<number>} kept versions that were not deleted
 */
export function rollbackTarget(moves, kept) {
  const counted = []; // index of each move, of a rollback that of the move that it restored
  const below = (index, fits) => {
    for (let at = index - 1; at >= 0; at -= 1) {
      at = counted[at];
      if (fits(moves[at].version)) return at;
    }
    return -1;
  };
  for (const [index, move] of moves.entries()) {
    const restored = move.reason === "rollback" ? below(counted[index - 1] ?? 0, (version) => version === move.version) : index;
    counted.push(restored < 0 ? index : restored);
  }
  const current = moves.at(-1)?.version;
  return moves[below(counted.at(-1) ?? 0, (version) => version !== current && kept.has(version))]?.version ?? null;
}

async function change(client, moved, text) {
  busy.value = true;
  const { version, failed } = await moved.catch((error) => ({ failed: problemOf(error) }));
  compared.value = null;
  await (reading === client ? readHistory(client, true) : readClients());
  if (!failed) say(t(text, { version }));
  else if (reading === client) problem.value = failed;
  else say(failed.words);
  busy.value = false;
}

export const goLive = (client, version) => change(client, publish(client, version), "published");
export const goBack = (client) => change(client, rollBack(client), "rolledback");

/** What a version is apart from others, also from one of an earlier client of the same name. */
export const keyOf = ({ client, version, created_at }) => `${client}/${version}/${created_at}`;

/** Let the browser save a version as one file for other programs. The service first compares its predictions. */
export async function exportVersion(version) {
  exporting.value = keyOf(version);
  const shown = history.value;
  try {
    const response = await send(`clients/${part(version.client)}/versions/${version.version}/export`, { headers: { Accept: "*/*" } });
    const url = URL.createObjectURL(await response.blob());
    Object.assign(document.createElement("a"), { href: url, download: `${version.client}-${version.version}.onnx` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser reads it after the click
  } catch (error) {
    if (history.value === shown) problem.value = problemOf(error);
    else say(problemOf(error).words);
  }
  exporting.value = "";
}

export async function openReport(version) {
  const shown = { key: keyOf(version) };
  opened.value = shown;
  const found = await readVersion(version.client, version.version).then(
    (details) => ({ details }),
    (error) => ({ problem: problemOf(error) }),
  );
  if (opened.value === shown) opened.value = { ...shown, ...found };
}

export async function compare(client, before, after) {
  const shown = { client, before, after, diff: null, problem: null };
  compared.value = shown;
  const found = await call(`clients/${part(client)}/versions/${before}/diff/${after}`).then(
    (diff) => ({ diff }),
    (error) => ({ problem: problemOf(error) }),
  );
  if (compared.value === shown) compared.value = { ...shown, ...found };
}
