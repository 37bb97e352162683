/** What this browser remembers. Where it cannot store, because storage is blocked or full, it lasts as long as the page. */

const unstored = new Map();

/**
 * The text that was kept last under a name, or null.
 * @param {string} name
 * @returns {string | null}
 */
export function kept(name) {
  try {
    return unstored.get(name) ?? localStorage.getItem(`anole.${name}`);
  } catch {
    return null;
  }
}

/** Keep a text under a name. */
export function keep(name, text) {
  try {
    localStorage.setItem(`anole.${name}`, text);
    unstored.delete(name);
  } catch {
    unstored.set(name, text);
  }
}

/**
 * What was remembered last about a client.
 * @template {object} T
 * @param {string} kind
 * @param {string} client
 * @param {T} otherwise taken if there is nothing, or nothing of the same type
 * @returns {T}
 */
export function remembered(kind, client, otherwise) {
  try {
    const found = JSON.parse(kept(`${kind}/${client}`));
    return found?.constructor === otherwise.constructor ? found : otherwise;
  } catch {
    return otherwise;
  }
}

export const remember = (kind, client, value) => keep(`${kind}/${client}`, JSON.stringify(value));

/**
 * The job that this window followed last for a client, if it was not seen to end. Other windows have their own, and
 * without storage a window that is loaded again has none.
 * @param {string} client empty for a new client
 * @returns {{job: string, client: string} | null}
 */
export function running(client) {
  try {
    return JSON.parse(sessionStorage.getItem(`anole.job/${client}`));
  } catch {
    return null;
  }
}

/** Note which job this window follows for a client; null for none. */
export function setRunning(client, job) {
  try {
    if (job) sessionStorage.setItem(`anole.job/${client}`, JSON.stringify({ job: job.job, client: job.client }));
    else sessionStorage.removeItem(`anole.job/${client}`);
  } catch {
    // without storage, a reload does not find the job again
  }
}
