/** What all views share: the address, the session, the service's limits and the clients. */

import { batch, computed, signal } from "./ui.js";
import { call, keyWanted, list, problemOf } from "./api.js";

export const VIEWS = ["teach", "judge", "versions", "overview"];

/** @type {{value: {view: string, client: string}}} the view and the client of the address `#/view/client` */
export const route = signal(readRoute());

function readRoute() {
  const [view, client] = location.hash.replace(/^#\/?/, "").split("/");
  return { view: VIEWS.includes(view) ? view : "", client: decoded(client ?? "") };
}

/** A client's name from the address; none if it is malformed. */
function decoded(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return "";
  }
}

addEventListener("hashchange", () => {
  route.value = readRoute();
  notice.value = null; // it speaks of the view that was left
});

export const address = (view, client = route.value.client) => `#/${view}${client ? `/${encodeURIComponent(client)}` : ""}`;

export function go(view, client) {
  location.hash = address(view, client);
}

/** Leave out the client, so that a new one can be named. */
export function goNew() {
  location.hash = "#/teach";
}

export const service = signal(null);
export const session = signal(null);
export const clients = signal(null);
export const clientsProblem = signal(null);

/** The client that a new service makes, so that there is something to look at. */
export const DEMO = "demo";

export const current = computed(() => clients.value?.find((each) => each.client === route.value.client) ?? null);

/** Whether the caller may do what this scope allows. */
export const may = (scope) => {
  const now = session.value;
  return !now?.keys_required || Boolean(now?.scopes?.includes(scope));
};

/** Read who is signed in, and whether anyone has to be. */
export async function readSession() {
  service.value = await call("./");
  const found = await call("session");
  batch(() => {
    session.value = found;
    keyWanted.value = found.keys_required && !found.authenticated;
  });
}

/** The models that the service offers; the first one is the default. */
export const models = signal([]);

/** Read the clients, and once the models. */
export async function readClients() {
  try {
    if (!models.value.length) models.value = (await list("models", "models")).models;
    clients.value = (await list("clients", "clients")).clients;
    clientsProblem.value = null;
  } catch (error) {
    clientsProblem.value = problemOf(error);
  }
}

/** A sentence at the foot of the page for some seconds, with at most one action. */
export const notice = signal(null);
let noticeEnds = 0;

export function say(text, action = null) {
  notice.value = { text, action };
  clearTimeout(noticeEnds);
  noticeEnds = setTimeout(() => {
    notice.value = null;
  }, 7000);
}
