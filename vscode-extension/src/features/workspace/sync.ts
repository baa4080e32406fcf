/**
 * One opened folder and its workspace on the server: whether it may be kept there, who keeps it (the server itself, or we),
 * and how warm it is. The editor's side of it is `ui/folders.ts`.
 */

import { Fault, type FaultKind, isAbort } from "../../api/fault";
import type { Gateway, WorkspaceStatus } from "../../api/gateway";
import type { FolderStatus } from "../states";
import type { Hash } from "./hash";
import { Lister } from "./ignored";
import { Keeper, type KeeperState } from "./keeper";
import { looksLike, suffixed } from "./names";
import { pollMs, retryMs, type Warmth, warmthOf } from "./warmth";

const ON_THE_WAY: ReadonlySet<FaultKind> = new Set(["dns", "refused", "unreachable", "tls", "proxy", "unauthorized"]);

/** What was decided for a folder, and kept. A yes holds for one server. */
export interface Memory {
  readonly decision: "yes" | "never";
  readonly name: string;
  readonly address: string;
}

export interface SyncParts {
  /** Absolute. */
  readonly folder: string;
  /** What it is to be called. */
  readonly name: () => string;
  readonly gateway: Pick<
    Gateway,
    "address" | "workspace" | "createWorkspace" | "deleteWorkspace" | "manifest" | "blobs" | "watchHere" | "unwatch"
  >;
  readonly ledger: string | undefined;
  readonly hash: () => Promise<Hash>;
  readonly mode: () => "ask" | "always" | "never";
  readonly memory: { get(): Memory | undefined; set(memory: Memory | undefined): void };
  readonly ask: (name: string) => Promise<"yes" | "later" | "never">;
  /** The id of the model that completes, as far as it is known. */
  readonly model: () => string | undefined;
  readonly focused: () => boolean;
  /** Begin, or end, to tell of changes by `changed`. */
  readonly watch: (on: boolean) => void;
  readonly onChange: () => void;
  readonly say: (text: string) => void;
  readonly met: (error: unknown) => void;
}

export class Sync {
  #name = "";
  #address = "";
  #how: FolderStatus["how"] | undefined;
  #asked = false;
  /** The user asked for it, whatever the setting says. */
  #wanted = false;
  #connecting = false;
  #last: Promise<void> = Promise.resolve();
  /** The workspace is there: requests may name it. */
  #there = false;
  #everSynced = false;
  #keeper: Keeper | undefined;
  #running: AbortController | undefined;
  #warmth: Warmth | undefined;
  #failure = "";
  /** Looks in a row that failed. */
  #failures = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #disposed = false;

  constructor(private readonly parts: SyncParts) {}

  /** The workspace that requests may name; undefined: none is there (yet). */
  get workspace(): string | undefined {
    return this.#there ? this.#name : undefined;
  }

  get status(): FolderStatus | undefined {
    if (this.#how === undefined) return undefined;
    const state = this.#keeper?.state;
    const first = this.#how === "pushing" && !this.#everSynced;
    const failed = this.#failure || (state?.phase === "held" || state?.phase === "failed" ? state.why : "");
    const warmth = this.#warmth ?? { state: "cold", warm: undefined, why: "" };
    return {
      name: this.#name,
      how: this.#how,
      sent: this.#how === "pushing" && state !== undefined && isMoving(state) ? state.share : undefined,
      state: failed ? "failed" : first ? "syncing" : warmth.state,
      warm: warmth.warm,
      why: failed || state?.why || (first ? "Its files are read and sent for the first time." : warmth.why),
    };
  }

  /** The server answers: begin, or go on after it was away. */
  async connected(): Promise<void> {
    if (this.#connecting || this.#disposed) return;
    this.#connecting = true;
    await this.#inTurn(() => this.#connected());
  }

  async #connected(): Promise<void> {
    this.#connecting = false;
    const moved = this.#address !== "" && this.#address !== this.parts.gateway.address;
    if (moved || (this.parts.mode() === "never" && !this.#wanted)) this.#reset();
    this.#keeper?.retry();
    if (this.#how === "server") await this.#keep();
    else if (this.#how === "pushing" && this.#keeper === undefined) await this.#keep();
    else if (this.#how === "pushing") this.#poll(0);
    else await this.#begin(false);
  }

  /** The user wants it. */
  async start(): Promise<void> {
    if (this.#keeper !== undefined) {
      this.#keeper.changed([""]);
      return;
    }
    this.#wanted = true;
    await this.#inTurn(() => this.#begin(true));
  }

  /** The user does not want it any more. `remove`: what the server has goes too. */
  async stop(remove: boolean): Promise<void> {
    const { gateway, memory, name } = this.parts;
    memory.set({ decision: "never", name: this.#name || name(), address: gateway.address });
    this.#wanted = false;
    const ended = this.#last.then(() => this.#end(remove));
    this.#last = ended.catch(() => {}); // it is the caller's
    await ended;
  }

  async #end(remove: boolean): Promise<void> {
    const { gateway } = this.parts;
    const name = this.#name;
    const how = this.#how;
    this.#reset();
    try {
      if (how === "server") await gateway.unwatch(name);
      if (remove && name) await gateway.deleteWorkspace(name);
    } finally {
      this.parts.onChange();
    }
  }

  /** Files or folders that may have changed, relative, with `/`. */
  changed(paths: Iterable<string>): void {
    this.#keeper?.changed(paths);
  }

  /** Somebody else asked the server for the workspace: what is shown here is what is shown there. */
  saw(status: WorkspaceStatus): void {
    if (this.#disposed || this.#how === undefined || status.name !== this.#name) return;
    const before = JSON.stringify(this.status);
    this.#take(status);
    if (JSON.stringify(this.status) === before) return;
    if (this.#timer !== undefined) this.#poll(pollMs(this.status?.state, this.parts.focused()));
    this.parts.onChange();
  }

  /** Look at the server now: the window has the focus again, or a save was made. */
  nudge(): void {
    if (this.#how !== undefined && this.#timer !== undefined) this.#poll(0);
  }

  dispose(): void {
    this.#disposed = true;
    this.#reset();
  }

  /** One piece of work after the other. Its errors are told, not thrown. */
  #inTurn(work: () => Promise<void>): Promise<void> {
    this.#last = this.#last.then(() => (this.#disposed ? undefined : this.#guarded(work)));
    return this.#last;
  }

  async #guarded(work: () => Promise<void>): Promise<void> {
    try {
      await work();
      this.#met(undefined);
    } catch (error) {
      if (!isAbort(error)) {
        this.#met(error);
        this.#failure = this.#how === undefined ? "" : wordsOf(error);
        if (!(error instanceof Fault)) this.parts.say(`The folder could not be kept warm: ${wordsOf(error)}`);
      }
    }
    if (!this.#disposed) this.parts.onChange();
  }

  async #begin(wanted: boolean): Promise<void> {
    const { gateway, memory, mode, name } = this.parts;
    const known = memory.get();
    const agreed = known?.decision === "yes" && known.address === gateway.address;
    if (!wanted && (mode() === "never" || known?.decision === "never")) return;
    this.#address = gateway.address;
    this.#name = agreed ? known.name : name();
    const there = await gateway.workspace(this.#name);
    if (there !== undefined) await this.#recognise(there, agreed);
    if (!wanted && !agreed && mode() === "ask") {
      if (this.#there) this.#how = "paused";
      this.#poll(0);
      if (!this.#asked) void this.#ask();
      return;
    }
    if (this.#disposed) return;
    memory.set({ decision: "yes", name: this.#name, address: gateway.address });
    await this.#keep();
  }

  /** Once; nothing waits for the answer, which may never come. */
  async #ask(): Promise<void> {
    this.#asked = true;
    const answer = await this.parts.ask(this.#name);
    if (this.#disposed || this.#how === "pushing" || this.#how === "server") return;
    if (answer === "yes") await this.start();
    else if (answer === "never") await this.stop(false);
  }

  /** Is what is there of that name this folder? If not, another name is taken. */
  async #recognise(there: WorkspaceStatus, agreed: boolean): Promise<void> {
    if (!agreed && there.files > 0) {
      const listing = await new Lister(this.parts.folder).list();
      if (!looksLike(there.files, listing.paths.length)) {
        this.#name = suffixed(this.#name, this.parts.folder);
        this.#there = (await this.parts.gateway.workspace(this.#name)) !== undefined;
        return;
      }
    }
    this.#there = there.files > 0;
  }

  /** By the server itself where it can see the folder, else by us. */
  async #keep(): Promise<void> {
    const { gateway, folder } = this.parts;
    this.#failure = "";
    if (this.#keeper === undefined && (await gateway.watchHere(this.#name, folder))) {
      this.#how = "server";
      this.#there = true;
    } else if (this.#keeper === undefined) {
      this.#how = "pushing";
      await this.#push();
    }
    this.#poll(0);
  }

  async #push(): Promise<void> {
    const { parts } = this;
    const keeper = new Keeper({
      root: parts.folder,
      name: this.#name,
      ledger: parts.ledger,
      gateway: parts.gateway,
      hash: await parts.hash(),
      say: parts.say,
      met: (error) => this.#met(error),
      onState: (state) => this.#pushed(state),
    });
    if (this.#disposed) return;
    const running = new AbortController();
    this.#keeper = keeper;
    this.#running = running;
    parts.watch(true);
    keeper.run(running.signal).catch((error: unknown) => {
      if (this.#keeper !== keeper) return;
      this.#keeper = undefined;
      this.#running = undefined;
      parts.watch(false);
      if (isAbort(error)) return;
      this.#failure = wordsOf(error);
      parts.say(`The folder is not kept warm any more: ${this.#failure}`);
      parts.onChange();
    });
  }

  #pushed(state: KeeperState): void {
    if (state.phase === "synced") {
      if (!this.#there || !this.#everSynced) this.#poll(0);
      this.#there = true;
      this.#everSynced = true;
      this.nudge();
    }
    this.parts.onChange();
  }

  #poll(afterMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#disposed || this.#how === undefined) return;
    this.#timer = setTimeout(() => void this.#look(), afterMs);
    this.#timer.unref?.();
  }

  async #look(): Promise<void> {
    const name = this.#name;
    let next: number;
    try {
      const status = await this.parts.gateway.workspace(name);
      if (this.#how === undefined || this.#name !== name || this.#disposed) return;
      this.#met(undefined);
      await this.#answered(status);
      this.#failures = 0;
      next = pollMs(this.status?.state, this.parts.focused());
    } catch (error) {
      if (!isAbort(error)) this.#met(error);
      this.#failures += 1;
      next = retryMs(this.#failures);
    }
    this.#poll(next);
    this.parts.onChange();
  }

  async #answered(status: WorkspaceStatus | undefined): Promise<void> {
    if (status === undefined) {
      this.#there = false;
      this.#warmth = undefined;
      if (this.#how === "server")
        await this.#keep(); // deleted there, or another server: it is asked again
      else if (this.#how === "paused") this.#how = undefined;
      return;
    }
    this.#take(status);
  }

  #take(status: WorkspaceStatus): void {
    this.#there = status.files > 0 || this.#how === "server";
    this.#warmth = warmthOf(status, this.parts.model());
  }

  /** What is wrong with a folder is not wrong with the server: only faults of the way there are told. */
  #met(error: unknown): void {
    if (error === undefined || (error instanceof Fault && ON_THE_WAY.has(error.kind))) this.parts.met(error);
  }

  #reset(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const running = this.#running;
    this.#keeper = undefined;
    this.#running = undefined;
    if (running !== undefined) this.parts.watch(false);
    running?.abort();
    this.#how = undefined;
    this.#there = false;
    this.#everSynced = false;
    this.#warmth = undefined;
    this.#failure = "";
    this.#asked = false;
    this.#address = "";
  }
}

function isMoving(state: KeeperState): boolean {
  return state.phase === "looking" || state.phase === "pushing";
}

function wordsOf(error: unknown): string {
  if (error instanceof Fault) return `${error.message} ${error.fix}`.trim();
  return error instanceof Error ? error.message : String(error);
}
