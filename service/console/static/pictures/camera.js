/** The camera: a live video, and frames of it as pictures. */

import { Component, html, signal } from "../core/ui.js";
import { t } from "../core/i18n.js";
import { ProblemBox } from "../core/parts.js";
import { Problem, problemOf } from "../core/api.js";
import { blobOf, canvasWithin } from "./canvas.js";

const cameras = signal([]);
const chosen = signal("");

/** Whether the browser lets this page use a camera: over HTTPS, or from this machine itself. */
export const cameraAllowed = () => Boolean(navigator.mediaDevices?.getUserMedia);

async function open(device) {
  if (!cameraAllowed()) throw new Problem("camera_insecure", t("camera.insecure"), "");
  const wanted = device ? { deviceId: { exact: device } } : { facingMode: { ideal: "environment" } };
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { ...wanted, width: { ideal: 1280 } } });
    cameras.value = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
    return stream;
  } catch (error) {
    const code = error.name === "NotAllowedError" ? "camera_refused" : "camera_missing";
    throw new Problem(code, t(`problem.${code}`), "");
  }
}

/**
 * A live video. It calls `onVideo` with the element once it plays, and with null once it plays no more, such as when the
 * camera is unplugged. It stops the camera when it leaves the page.
 */
export class Camera extends Component {
  problem = signal(null);
  keep = (element) => {
    this.video = element;
  };

  componentDidMount() {
    this.start();
  }

  componentWillUnmount() {
    this.left = true;
    this.stop();
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
  }

  start = async () => {
    this.stop();
    try {
      this.stream = await open(chosen.value);
      if (this.left) return this.stop();
      for (const track of this.stream.getTracks()) track.addEventListener("ended", this.lose);
      this.video.srcObject = this.stream;
      await this.video.play();
      this.problem.value = null;
      this.props.onVideo(this.video);
    } catch (error) {
      this.fail(error);
    }
    return undefined;
  };

  /** A track ends by itself, not by `stop`, if its camera is gone. */
  lose = () => this.fail(new Problem("camera_lost", t("problem.camera_lost"), ""));

  fail(error) {
    if (this.left) return;
    this.stop();
    this.video.srcObject = null; // its last picture would look as if it were live
    this.problem.value = problemOf(error);
    this.props.onVideo(null);
  }

  choose = (event) => {
    chosen.value = event.target.value;
    this.start();
  };

  render({ children }) {
    const several = cameras.value.length > 1;
    return html`<div class="camera">
      <div class="camera-stage">
        <video ref=${this.keep} class="camera-video" playsinline muted aria-label=${t("camera.video")}></video>
        ${children}
      </div>
      <${ProblemBox} problem=${this.problem.value} retry=${this.start} />
      ${
        several &&
        html`<label class="field">${t("camera.which")}
          <select value=${chosen.value} onChange=${this.choose}>
            ${cameras.value.map((each, index) => html`<option value=${each.deviceId}>${each.label || t("camera.number", { n: index + 1 })}</option>`)}
          </select></label>`
      }
    </div>`;
  }
}

/**
 * The current frame of a video as a JPEG file.
 * @param {HTMLVideoElement} video
 * @param {number} [longest] longest side
 */
export async function frameOf(video, longest = 1280) {
  const blob = await blobOf(canvasWithin(video, longest), "image/jpeg", 0.92);
  const stamp = new Date().toISOString().slice(11, 23).replaceAll(":", "-").replace(".", "-");
  return new File([blob], `camera-${stamp}.jpg`, { type: "image/jpeg" });
}
