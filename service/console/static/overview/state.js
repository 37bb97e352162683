/** What the overview reads: the service's health and metrics, and the live version of each client. */

import { signal } from "../core/ui.js";
import { call, list, part, Problem, problemOf, readVersion, send } from "../core/api.js";
import { clients, readClients } from "../core/state.js";

const MOST_CLIENTS = 60;

export const health = signal(null); // {status, checks} or a problem
export const metrics = signal(null); // Map name -> number; null if the key may not read them
export const liveVersions = signal(new Map()); // client -> version as lists show it
export const device = signal(""); // where the newest live version was adapted
export const drifting = signal(new Set()); // names of clients whose pictures changed
export const readAt = signal(0);

export async function readOverview() {
  readAt.value = Date.now();
  await Promise.all([readHealth(), readMetrics(), readClients(), readDrifting()]);
  const found = await Promise.all((clients.value ?? []).slice(0, MOST_CLIENTS).map(readLive));
  liveVersions.value = new Map(found.filter(Boolean).map((version) => [version.client, version]));
  await readDevice();
}

async function readHealth() {
  try {
    health.value = await call("readyz");
  } catch (error) {
    health.value = error instanceof Problem && error.status === 503 ? { status: "not ready", checks: {} } : problemOf(error);
  }
}

async function readMetrics() {
  metrics.value = await send("metrics")
    .then((response) => response.text())
    .then(parse)
    .catch(() => null);
}

async function readDrifting() {
  const found = await list("clients?drift=true", "clients").catch(() => ({ clients: [] }));
  drifting.value = new Set(found.clients.filter((client) => client.drifting).map((client) => client.client));
}

async function readLive(client) {
  const number = client.live ?? client.latest;
  if (!number) return null;
  const found = await call(`clients/${part(client.client)}/versions?after=${number - 1}&limit=1`).catch(() => null);
  return found?.versions[0];
}

async function readDevice() {
  const newest = [...liveVersions.value.values()].sort((one, other) => other.created_at.localeCompare(one.created_at))[0];
  if (!newest) return;
  const found = await readVersion(newest.client, newest.version).catch(() => null);
  device.value = found?.device ?? "";
}

/** Sums of the samples of each metric; those with the label `verdict` or `gate` also by its value. */
function parse(text) {
  const found = new Map();
  const add = (name, value) => found.set(name, (found.get(name) ?? 0) + value);
  for (const line of text.split("\n")) {
    const match = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!match) continue;
    const [, name, labels, value] = match;
    add(name, Number(value));
    const label = /(?:verdict|gate)="([^"]*)"/.exec(labels ?? "");
    if (label) add(`${name}:${label[1]}`, Number(value));
  }
  return found;
}
