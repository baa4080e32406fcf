/** How the server and the opened folder stand: made by the connection and the sync, read by all that is shown. */

export type { ConnectionState } from "../api/gateway";

export interface FolderStatus {
  readonly name: string;
  readonly how: "server" | "pushing" | "paused";
  /** 0 to 1 while files are sent. */
  readonly sent: number | undefined;
  readonly state: "syncing" | "cold" | "warming" | "warm" | "off" | "failed";
  /** 0 to 1. */
  readonly warm: number | undefined;
  readonly why: string;
}
