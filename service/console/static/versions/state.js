/** The versions and alias moves of a client, as one time line. */

import { batch, signal } from "../core/ui.js";
import { call, list, part, problemOf, readVersion } from "../core/api.js";
import { t } from "../core/i18n.js";
import { readClients, say } from "../core/state.js";
import { publish, rollBack } from "../teach/send.js";

export const history = signal(null); // {client, live, versions, moves}
export const problem = signal(null);
export const busy = signal(false);
export const details = signal(new Map()); // "client/version" -> details
export const compared = signal(null); // {before, after, diff, problem}

let reading = "";

export async function readHistory(client, again = false) {
  if (reading === client && !again) return;
  reading = client;
  if (history.value?.client !== client) {
    batch(() => {
      history.value = null;
      compared.value = null;
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
  } catch (error) {
    problem.value = problemOf(error);
  }
}

/** Forget what was read, so that the next visit reads it again. */
export function leaveHistory() {
  reading = "";
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
  await readHistory(client, true);
  if (failed) problem.value = failed;
  else say(t(text, { version }));
  busy.value = false;
}

export const goLive = (client, version) => change(client, publish(client, version), "published");
export const goBack = (client) => change(client, rollBack(client), "rolledback");

export async function readDetails(client, version) {
  const key = `${client}/${version}`;
  if (details.value.has(key)) return;
  details.value = new Map([...details.value, [key, null]]);
  const found = await readVersion(client, version).catch((error) => ({ problem: problemOf(error) }));
  details.value = new Map([...details.value, [key, found]]);
}

export async function compare(client, before, after) {
  compared.value = { client, before, after, diff: null, problem: null };
  try {
    const diff = await call(`clients/${part(client)}/versions/${before}/diff/${after}`);
    compared.value = { client, before, after, diff, problem: null };
  } catch (error) {
    compared.value = { client, before, after, diff: null, problem: problemOf(error) };
  }
}
