/** The live camera: one frame at a time. The next one is taken when the verdict on the last one has come. */

import { Component, html, signal } from "../core/ui.js";
import { problemOf, wait } from "../core/api.js";
import { t } from "../core/i18n.js";
import { ProblemBox } from "../core/parts.js";
import { Camera, frameOf } from "../pictures/camera.js";
import { single } from "../pictures/read.js";
import { icon } from "../core/icons.js";
import { judge, predict } from "./state.js";
import { Bars, Verdict } from "./verdict.js";

const LONGEST = 640;
const PAUSE_S = 0.15;

export const live = signal(false);

export class Live extends Component {
  latest = signal(null);
  problem = signal(null);

  componentWillUnmount() {
    this.left = true;
  }

  run = async (video) => {
    if (this.video) return; // another camera was chosen, in the same video
    this.video = video;
    while (!this.left) {
      try {
        const frame = await frameOf(video, LONGEST);
        const answer = await predict(this.props.client, frame, frame.name, false);
        this.latest.value = answer.predictions[0];
        this.problem.value = null;
      } catch (error) {
        this.problem.value = problemOf(error);
        await wait(2);
      }
      await wait(PAUSE_S);
    }
  };

  hold = async () => {
    if (this.video) judge(this.props.client, single(await frameOf(this.video)));
  };

  render() {
    const prediction = this.latest.value;
    return html`<section class="card live" aria-label=${t("live.title")}>
      <${Camera} onVideo=${this.run} />
      <div class="live-body">
        ${prediction ? html`<${Verdict} prediction=${prediction} /><${Bars} scores=${prediction.scores} />` : html`<p class="muted">${t("live.waiting")}</p>`}
        <${ProblemBox} problem=${this.problem.value} />
        <button type="button" class="big" onClick=${this.hold}>${icon("camera")} ${t("live.hold")}</button>
      </div>
    </section>`;
  }
}
