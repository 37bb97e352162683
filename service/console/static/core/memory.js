/** What this browser remembers about a client. */

const key = (kind, client) => `anole.${kind}/${client}`;

/** What was remembered last, or null. */
export const remembered = (kind, client) => JSON.parse(localStorage.getItem(key(kind, client)) ?? "null");

export const remember = (kind, client, value) => localStorage.setItem(key(kind, client), JSON.stringify(value));
