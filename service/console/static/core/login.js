/** Asks for a key where the service requires one. The key goes into a cookie that scripts cannot read. */

import { html, signal } from "./ui.js";
import { call, problemOf, send } from "./api.js";
import { t } from "./i18n.js";
import { ProblemBox } from "./parts.js";
import { readClients, readSession } from "./state.js";

const problem = signal(null);
const busy = signal(false);

async function signIn(event) {
  event.preventDefault();
  const field = event.target.elements.key;
  busy.value = true;
  try {
    await call("session", { method: "POST", json: { key: field.value.trim() } });
    problem.value = null;
    await readSession();
    await readClients();
  } catch (error) {
    problem.value = problemOf(error);
    field.select();
  } finally {
    busy.value = false;
  }
}

export async function signOut() {
  await send("session", { method: "DELETE" }).catch(() => null);
  location.reload();
}

export const Login = () =>
  html`<main class="login">
    <form class="card" onSubmit=${signIn}>
      <h1>Anole</h1>
      <p class="lead">${t("login.lead")}</p>
      <label class="field">${t("login.key")}<input type="password" name="key" autocomplete="current-password" required autofocus /></label>
      <button type="submit" class="primary big" disabled=${busy.value}>${t("login.go")}</button>
      <${ProblemBox} problem=${problem.value} />
      <p class="muted hint">${t("login.hint")}</p>
    </form>
  </main>`;
