/** Requests to the service. Every failure is a `Problem` with words to show. */

import { signal } from "./ui.js";
import { has, t } from "./i18n.js";

/** Set when the service wants a key that it does not have. */
export const keyWanted = signal(false);

export class Problem extends Error {
  /**
   * @param {string} code stable name, such as "unknown_client"
   * @param {string} title
   * @param {string} detail what was sent, what is allowed and what to do
   * @param {number} [status]
   * @param {number} [retryAfter] seconds
   */
  constructor(code, title, detail, status = 0, retryAfter = 0) {
    super(detail || title);
    Object.assign(this, { code, title, detail, status, retryAfter });
  }

  /** A sentence in the user's language, or the service's own title. */
  get words() {
    return has(`problem.${this.code}`) ? t(`problem.${this.code}`) : this.title;
  }
}

/** What anything that was thrown is as a problem. */
export function problemOf(error) {
  if (error instanceof Problem) return error;
  return new Problem("page_failed", error?.name ?? "Error", error?.message ?? String(error));
}

/**
 * Send a request and return the response; a path is relative to the page.
 * @param {string} path
 * @param {RequestInit & {json?: unknown}} [options]
 */
export async function send(path, { json, ...options } = {}) {
  const method = options.method ?? "GET";
  const headers = new Headers({ Accept: "application/json", ...options.headers });
  if (method !== "GET") headers.set("X-Anole-Console", "1");
  if (json !== undefined) {
    headers.set("Content-Type", "application/json");
    options.body = JSON.stringify(json);
  }
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("unreachable", t("problem.unreachable"), ""); // the browser's own words are in its console
  }
  if (!response.ok) throw await problemFrom(response);
  return response;
}

async function problemFrom(response) {
  const retryAfter = Number(response.headers.get("Retry-After") ?? 0);
  const body = await response.json().catch(() => ({}));
  if (response.status === 401) keyWanted.value = true;
  return new Problem(
    body.code ?? "no_answer",
    body.title ?? `HTTP ${response.status}`,
    body.detail ?? "",
    response.status,
    retryAfter,
  );
}

/** Send a request and return its JSON, or null where there is no content. */
export async function call(path, options) {
  const response = await send(path, options);
  return response.status === 204 ? null : response.json();
}

const MOST_ENTRIES = 5000;

/**
 * All entries of a list that pages by the header Link.
 * @param {string} path
 * @param {string} field the list in each answer
 */
export async function list(path, field) {
  const found = [];
  let next = path;
  let first = null;
  while (next && found.length < MOST_ENTRIES) {
    const response = await send(next);
    const body = await response.json();
    first ??= body;
    found.push(...body[field]);
    next = /<\/?([^>]+)>;\s*rel="next"/.exec(response.headers.get("Link") ?? "")?.[1];
  }
  return { ...first, [field]: found };
}

export const part = encodeURIComponent;

/** Address of a stored picture of a client, scaled down to this side in pixels. */
export const pictureOf = (client, digest, side) => `clients/${part(client)}/samples/${digest}?side=${side}`;

/** Read a version with everything that is recorded about it. */
export const readVersion = (client, version) => call(`clients/${part(client)}/versions/${version}`);

/**
 * Wait, or throw an AbortError as soon as the signal is aborted.
 * @param {number} seconds
 * @param {AbortSignal} [signal]
 */
export const wait = (seconds, signal) =>
  new Promise((done, failed) => {
    signal?.throwIfAborted();
    setTimeout(done, seconds * 1000);
    signal?.addEventListener("abort", () => failed(signal.reason), { once: true });
  });

/** Send again while the service says that it is busy, or still at work on the same request, at most three times. */
export async function patiently(request, onWait = () => {}, signal = undefined) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await request();
    } catch (error) {
      const waits = error.status === 503 || error.status === 429 || error.code === "idempotency_in_flight";
      const busy = error instanceof Problem && waits;
      if (!busy || attempt === 3) throw error;
      const seconds = Math.min(10, error.retryAfter || 2);
      onWait(seconds);
      await wait(seconds, signal);
    }
  }
}
