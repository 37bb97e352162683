/** The page: its frame, its views, and what happens when it opens. */

import { classes, effect, html, mount, signal } from "./core/ui.js";
import { keyWanted, problemOf } from "./core/api.js";
import { chooseLanguage, LANGUAGES, language, preferredLanguage, t } from "./core/i18n.js";
import { icon } from "./core/icons.js";
import { listenForPictures, takePictures } from "./core/intake.js";
import { Login, signOut } from "./core/login.js";
import { ProblemBox } from "./core/parts.js";
import { address, clients, current, DEMO, go, goNew, may, notice, readClients, readSession, route, session, VIEWS } from "./core/state.js";
import { applyTheme, chooseTheme, nextTheme, theme } from "./core/theme.js";
import { Judge, takeForJudge } from "./judge/view.js";
import { live } from "./judge/live.js";
import { Overview, refreshOverview } from "./overview/view.js";
import { draftOf, picturesWait } from "./teach/draft.js";
import { answersWait } from "./teach/report.js";
import { Teach, takeForTeach } from "./teach/view.js";
import { leaveHistory } from "./versions/state.js";
import { Versions } from "./versions/view.js";

const SCREENS = { teach: Teach, judge: Judge, versions: Versions, overview: Overview };
const failed = signal(null);
const ready = signal(false);

const Failure = ({ problem }) =>
  html`<main class="page"><${ProblemBox} problem=${problem}><button type="button" class="quiet" onClick=${() => location.reload()}>${t("reload")}</button><//></main>`;

function App() {
  if (failed.value) return html`<${Failure} problem=${failed.value} />`;
  if (!ready.value) return html`<main class="page" aria-busy="true"></main>`;
  if (keyWanted.value) return html`<${Login} />`;
  const View = SCREENS[route.value.view] ?? Teach;
  return html`<a class="skip" href="#main" onClick=${skip}>${t("skip")}</a>
    <header class="top">
      <a class="brand" href="#/overview" aria-label=${`Anole: ${t("overview")}`}><img src="console/icon.svg" alt="" width="28" height="28" /><span>Anole</span></a>
      <${ClientPicker} />
      <${Tabs} />
      <${Preferences} />
    </header>
    <main id="main" tabindex="-1" key=${route.value.view}><${View} /></main>
    <${Notice} />`;
}

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

const Tabs = () =>
  html`<nav class="tabs" aria-label=${t("nav")}>
    ${VIEWS.map(
      (view) => html`<a href=${address(view)} class=${classes("tab", route.value.view === view && "on")} aria-current=${route.value.view === view ? "page" : undefined}>${icon(view)}<span>${t(view)}</span>${view === "teach" && html`<${Waiting} />`}</a>`,
    )}
  </nav>`;

/** How many pictures of the client wait in Teach. */
function Waiting() {
  const n = draftOf().pictures.value.length;
  return n > 0 && html`<span class="badge"><span aria-hidden="true">${n}</span><span class="hidden">${t("count.new", { n })}</span></span>`;
}

const NEW = "?new";
const ALL = "?all";

function ClientPicker() {
  const all = route.value.view === "overview";
  const name = all ? ALL : (current.value?.client ?? NEW);
  const choose = (event) => {
    if (event.target.value === NEW) goNew();
    else go(all ? "teach" : route.value.view, event.target.value);
  };
  return html`<label class="picker"><span class="hidden">${t("client")}</span>
    <select value=${name} onChange=${choose}>
      ${all && html`<option value=${ALL} key=${ALL}>${t("clients.all")}</option>`}
      ${(clients.value ?? []).map((each) => html`<option value=${each.client} key=${each.client}>${each.client}</option>`)}
      <option value=${NEW} key=${NEW}>${t("client.new")}</option>
    </select>
  </label>`;
}

function Preferences() {
  const other = Object.keys(LANGUAGES).find((name) => name !== language.value);
  const next = nextTheme();
  return html`<div class="preferences">
    <button type="button" class="bare" lang=${other} aria-label=${LANGUAGES[other]} onClick=${() => chooseLanguage(other)}>${other === "zh" ? "中" : "EN"}</button>
    <button type="button" class="bare" title=${t(`theme.${theme.value}`)} aria-label=${t("theme.switch", { now: t(`theme.${theme.value}`), next: t(`theme.${next}`) })} onClick=${() => chooseTheme(next)}>${icon(`theme-${theme.value}`)}</button>
    ${session.value?.authenticated && html`<button type="button" class="bare" title=${session.value.name} aria-label=${t("signout", { name: session.value.name ?? "" })} onClick=${signOut}>${icon("out")}</button>`}
  </div>`;
}

function Notice() {
  const now = notice.value;
  return html`<div class="notices" aria-live="polite">
    ${now && html`<div class="toast"><span>${now.text}</span>${now.action && html`<button type="button" onClick=${now.action.run}>${now.action.text}</button>`}</div>`}
  </div>`;
}

/** What depends on the view that is open. */
function followRoute() {
  const { view } = route.value;
  takePictures({ teach: takeForTeach, judge: takeForJudge }[view] ?? null);
  if (view !== "judge") live.value = false;
  if (view !== "versions") leaveHistory();
  void language.value; // the title is in the chosen language
  document.title = `${t(view || "teach")} · Anole`;
}

/** Open the client that has something to judge, or Teach for the first visitor. */
function openFirstView() {
  if (route.value.view && (current.value || !route.value.client)) return;
  const all = clients.value ?? [];
  const own = may("adapt") ? all.filter((each) => each.client !== DEMO) : all;
  if (own.length) location.replace(address("judge", own[0].client));
  else location.replace("#/teach");
}

/** Pictures and answers that were not sent are only in this window. */
function askBeforeLeaving(event) {
  if (picturesWait() || answersWait()) event.preventDefault();
}

async function start() {
  applyTheme();
  mount(() => html`<${App} />`, document.getElementById("app"), (error) => html`<${Failure} problem=${problemOf(error)} />`);
  try {
    await chooseLanguage(preferredLanguage());
    await readSession();
    if (!keyWanted.value) await readClients();
    openFirstView();
    ready.value = true;
    effect(() => {
      followRoute();
      scrollTo(0, 0);
    });
    listenForPictures();
    addEventListener("beforeunload", askBeforeLeaving);
    refreshOverview();
  } catch (error) {
    failed.value = problemOf(error);
  }
}

start();
