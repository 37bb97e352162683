/** The live camera: one frame at a time. The next one is taken when the verdict on the last one has come. */

import { Component, html, signal } from "../core/ui.js";
import { problemOf, wait } from "../core/api.js";
import { t } from "../core/i18n.js";
import { ProblemBox } from "../core/parts.js";
import { Camera, frameOf } from "../pictures/camera.js";
import { single } from "../pictures/read.js";
import { icon } from "../core/icons.js";
import { judge, noteOf, predict } from "./state.js";
import { Bars, Grounds, Verdict } from "./verdict.js";

const LONGEST = 640;
const PAUSE_S = 0.15;

export const live = signal(false);

export class Live extends Component {
  latest = signal(null);
  video = signal(null); // while it plays
  problem = signal(null);

  componentWillUnmount() {
    this.left = true;
  }

  /** Judge frames until this leaves the page. The video stays the same if another camera is chosen, and is null without one. */
  run = async (video) => {
    this.video.value = video;
    if (!video) this.latest.value = null;
    if (this.running) return;
    this.running = true;
    while (!this.left) {
      if (this.video.value) await this.judgeFrame();
      await wait(PAUSE_S);
    }
  };

  async judgeFrame() {
    try {
      const frame = await frameOf(this.video.value, LONGEST);
      const given = noteOf(this.props.client);
      const answer = await predict(this.props.client, frame, { name: frame.name, ...given }, false);
      this.latest.value = this.video.value && { ...answer.predictions[0], note: given.note };
      this.problem.value = null;
    } catch (error) {
      this.problem.value = problemOf(error);
      await wait(2);
    }
  }

  hold = async () => {
    judge(this.props.client, single(await frameOf(this.video.value)));
  };

  render() {
    const prediction = this.latest.value;
    return html`<section class="card live" aria-label=${t("live.title")}>
      <${Camera} onVideo=${this.run} />
      <div class="live-body">
        ${prediction ? html`<${Verdict} prediction=${prediction} /><${Bars} scores=${prediction.scores} /><${Grounds} prediction=${prediction} note=${prediction.note} />` : html`<p class="muted">${t("live.waiting")}</p>`}
        <${ProblemBox} problem=${this.problem.value} />
        <button type="button" class="big" disabled=${!this.video.value} onClick=${this.hold}>${icon("camera")} ${t("live.hold")}</button>
      </div>
    </section>`;
  }
}
