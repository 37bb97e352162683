/** Overview: the service's health, and each client with its live version. */

import { classes, html, signal } from "../core/ui.js";
import { icon } from "../core/icons.js";
import { ago, bytes, moment, number, percent, t } from "../core/i18n.js";
import { Empty, Estimate, inWords, ProblemBox, Spinner } from "../core/parts.js";
import { address, clients, clientsProblem, models, route, service } from "../core/state.js";
import { device, drifting, health, liveVersions, metrics, readAt, readOverview } from "./state.js";

const EVERY_MS = 15_000;
const entered = signal(null); // the address at which the overview was read

/** Read again while the overview is open and seen. */
export function refreshOverview() {
  setInterval(() => {
    if (route.value.view === "overview" && !document.hidden) readOverview();
  }, EVERY_MS);
}

const FRESH_MS = 1000;

export function Overview() {
  if (entered.peek() !== route.value) {
    entered.value = route.value;
    if (Date.now() - readAt.peek() > FRESH_MS) queueMicrotask(readOverview);
  }
  return html`<div class="page">
    <header class="page-head">
      <div><h1>${t("overview")}</h1><p class="lead">${t("overview.lead")}</p></div>
      <button type="button" onClick=${readOverview}>${t("refresh")}</button>
    </header>
    <${Health} />
    <${Traffic} />
    <h2 class="section">${t("clients")}</h2>
    <${ProblemBox} problem=${clientsProblem.value} retry=${readOverview} />
    ${clients.value === null && !clientsProblem.value && html`<${Spinner} text=${t("reading")} />`}
    ${clients.value?.length === 0 && html`<${Empty} title=${t("clients.none")} text=${t("clients.none.hint")}><a class="button primary" href="#/teach">${t("client.new")}</a><//>`}
    <ul class="clients">${(clients.value ?? []).map((client) => html`<${ClientCard} key=${client.client} client=${client} />`)}</ul>
  </div>`;
}

function Health() {
  const state = health.value;
  if (!state) return html`<${Spinner} text=${t("reading")} />`;
  if (!state.checks) return html`<${ProblemBox} problem=${state} retry=${readOverview} />`;
  const ready = state.status === "ready";
  const failed = Object.entries(state.checks).filter(([, text]) => text !== "ok");
  return html`<div class=${classes("card health", ready ? "good" : "bad")} role="status">
    <p>${icon(ready ? "check" : "warn")} <strong>${t(ready ? "health.ready" : "health.notready")}</strong></p>
    <p class="muted">${failed.length ? failed.map(([name, text]) => `${name}: ${text}`).join(" · ") : t("health.fine", { version: service.value?.version ?? "" })}</p>
    <p class="muted">${t("health.models", { names: models.value.map((model) => model.name).join(", ") || "–" })}${device.value && ` · ${t("health.device", { device: device.value })}`}</p>
  </div>`;
}

function Traffic() {
  const found = metrics.value;
  if (!found) return null;
  const value = (name) => found.get(name) ?? 0;
  const images = value("anole_images_total");
  const unknown = value("anole_images_total:unknown");
  const hits = value("anole_weight_cache_hits_total");
  const loads = value("anole_weight_cache_loads_total");
  const seconds = value("anole_predict_seconds_count") ? value("anole_predict_seconds_sum") / value("anole_predict_seconds_count") : null;
  return html`<div class="figures" aria-label=${t("traffic")}>
    <${Figure} value=${number(images)} name=${t("traffic.images")} hint=${seconds === null ? "" : t("traffic.mean", { n: Math.round(seconds * 1000) })} />
    <${Figure} value=${images ? percent(unknown / images, 1) : "–"} name=${t("traffic.unknown")} />
    <${Figure} value=${number(value("anole_versions_total"))} name=${t("traffic.versions")} hint=${t("traffic.held", { n: value("anole_versions_total:hold") })} />
    <${Figure} value=${number(value("anole_adapt_taken"))} name=${t("traffic.queue")} hint=${t("traffic.predicting", { n: value("anole_predict_taken") })} />
    <${Figure} value=${hits + loads ? percent(hits / (hits + loads)) : "–"} name=${t("traffic.cache")} hint=${t("traffic.memory", { size: bytes(value("anole_request_memory_bytes")) })} />
    <${Figure} value=${number(value("anole_refused_total"))} name=${t("traffic.refused")} />
  </div>
  <p class="muted hint">${t("traffic.since")}</p>`;
}

/** A number with its name under it. */
const Figure = ({ value, name, hint }) =>
  html`<div class="figure"><span class="figure-value">${value}</span><span class="figure-name">${name}</span>${
    hint && html`<span class="figure-hint">${hint}</span>`
  }</div>`;

function ClientCard({ client }) {
  const version = liveVersions.value.get(client.client);
  return html`<li class="card client-card">
    <header class="row">
      <h3>${client.client}</h3>
      ${client.live ? html`<span class="pill good">${t("live.version", { version: client.live })}</span>` : html`<span class="pill held">${t("live.none")}</span>`}
    </header>
    ${
      version
        ? html`<p>${inWords(version.estimated_accuracy)}</p>
            ${version.estimated_accuracy !== null && html`<${Estimate} share=${version.estimated_accuracy} />`}
            <p class="muted">${t("client.classes", { n: version.classes.length })} · ${t("samples", { n: version.samples })} · ${html`<time datetime=${version.created_at} title=${moment(version.created_at)}>${t("client.adapted", { ago: ago(version.created_at) })}</time>`}</p>`
        : html`<p class="muted">${t("client.versions", { n: client.versions })}</p>`
    }
    ${drifting.value.has(client.client) && html`<p><span class="pill held">${icon("warn")} ${t("client.drifting")}</span></p>`}
    <div class="row">
      <a class="button" href=${address("judge", client.client)}>${t("judge")}</a>
      <a class="button" href=${address("teach", client.client)}>${t("teach")}</a>
      <a class="button quiet" href=${address("versions", client.client)}>${t("versions")}</a>
    </div>
  </li>`;
}
