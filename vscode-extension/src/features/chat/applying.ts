/** Code of an answer on its way into a file: the page hears what becomes of it, and may decide about its diff. */

import { type Kept, turnOf } from "./conversation";
import type { Desk } from "./desk";
import { sentenceOf } from "./faults";
import type { AppliedState, BlockPlace } from "./protocol";

export class Applying {
  /** The diffs on the screen, by turn and block. */
  readonly #deciding = new Map<string, (accepted: boolean) => void>();

  constructor(private readonly desk: Desk) {}

  async apply(block: BlockPlace, kept: Kept): Promise<void> {
    const turn = turnOf(kept, block.turn);
    if (turn === undefined) return;
    const tell = (state: AppliedState, detail?: string): void =>
      this.desk.post({
        type: "applied",
        turn: block.turn,
        block: block.block,
        state,
        ...(detail !== undefined && { detail }),
      });
    tell("working");
    const until = kept.turns.slice(0, kept.turns.indexOf(turn) + 1).reverse();
    const mentions = until.flatMap((each) => each.mentions);
    const key = keyOf(block.turn, block.block);
    let decide = (_: boolean): void => {};
    const decided = new Promise<boolean>((resolve) => {
      decide = resolve;
    });
    this.#deciding.set(key, decide);
    try {
      await this.desk.acts.apply(block, { answer: turn.answer, mentions, blocks: turn.blocks }, tell, decided);
    } catch (error) {
      this.desk.log(`apply: ${sentenceOf(error)}`);
      tell("failed", sentenceOf(error));
    } finally {
      if (this.#deciding.get(key) === decide) this.#deciding.delete(key);
    }
  }

  decide(turn: string, block: number, accepted: boolean): void {
    this.#deciding.get(keyOf(turn, block))?.(accepted);
  }
}

function keyOf(turn: string, block: number): string {
  return `${turn} ${block}`;
}
