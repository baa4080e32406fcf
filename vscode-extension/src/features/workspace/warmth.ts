/** How warm a workspace is, in one word and one number, out of what the server says of each model. Pure. */

import type { LaneStatus, WorkspaceStatus } from "../../api/gateway";

export interface Warmth {
  readonly state: "cold" | "warming" | "warm" | "off" | "failed";
  /** 0 to 1; undefined where nothing is told. */
  readonly warm: number | undefined;
  readonly why: string;
}

/** `model`: the one that completes, if it is known; its lanes count alone where it has any. */
export function warmthOf(status: WorkspaceStatus, model?: string): Warmth {
  const ofModel = status.lanes.filter((lane) => lane.model === model);
  const lanes = ofModel.length ? ofModel : status.lanes;
  const on = lanes.filter((lane) => lane.state !== "off");
  if (lanes.length === 0) return { state: "cold", warm: 0, why: "The server has not begun to warm it yet." };
  if (on.length === 0) return { state: "off", warm: undefined, why: lanes[0]?.reason ?? "" };
  const stuck = on.find((lane) => lane.state === "stuck");
  if (on.every((lane) => lane.state === "warm")) return { state: "warm", warm: 1, why: "" };
  const warm = share(on);
  const busy = on.find((lane) => lane.state === "warming" || lane.state === "building");
  if (busy !== undefined) return { state: "warming", warm, why: busy.reason };
  if (stuck !== undefined) return { state: "failed", warm, why: stuck.reason };
  if (warm !== undefined && warm > 0)
    return { state: "warming", warm, why: on.find((lane) => lane.reason)?.reason ?? "" };
  return { state: "cold", warm: 0, why: on.find((lane) => lane.reason)?.reason ?? "" };
}

/** Of all lanes' tokens, how much is resident. */
function share(lanes: readonly LaneStatus[]): number | undefined {
  let resident = 0;
  let all = 0;
  for (const lane of lanes) {
    const weight = Math.max(1, lane.packTokens);
    resident += weight * Math.min(1, Math.max(0, lane.state === "warm" ? 1 : (lane.resident ?? 0)));
    all += weight;
  }
  return all ? resident / all : undefined;
}

/** Milliseconds until the next look at the server: often while it warms, seldom when nobody looks. */
export function pollMs(state: Warmth["state"] | "syncing" | undefined, focused: boolean): number {
  if (!focused) return state === "warming" || state === "syncing" ? 2000 : 60_000;
  return state === "warm" || state === "off" ? 15_000 : 1000;
}

/** The same after so many looks in a row that failed: a server that starts anew is soon there again. */
export function retryMs(failures: number): number {
  return Math.min(15_000, 1000 * 2 ** Math.max(0, failures - 1));
}
