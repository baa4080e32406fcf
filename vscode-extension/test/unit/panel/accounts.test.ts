import { describe, expect, it } from "vitest";
import type { Account } from "../../../src/api/gateway";
import { Accounts } from "../../../src/features/accounts";

function account(id: string, engine = "engine-0"): Account {
  return { id, status: 200, engine, choice: "", waitedS: undefined, firstByteS: 0, totalS: 0, context: undefined };
}

const turn = () => new Promise((resolve) => setTimeout(resolve, 0));

describe("Accounts", () => {
  it("asks at most five at a time, each once, the latest wishes first", async () => {
    const asked: string[] = [];
    let open = 0;
    let most = 0;
    const release: (() => void)[] = [];
    const accounts = new Accounts(
      async (id) => {
        asked.push(id);
        most = Math.max(most, ++open);
        await new Promise<void>((resolve) => release.push(resolve));
        open--;
        return account(id);
      },
      () => {},
    );
    accounts.want(Array.from({ length: 10 }, (_, at) => `old${at}`));
    accounts.want(["new", "old9"]);
    accounts.want(["new"]);
    for (let round = 0; round < 20; round++) {
      for (const go of release.splice(0)) go();
      await turn();
    }
    expect(most).toBe(5);
    expect(asked.slice(0, 7)).toEqual(["old0", "old1", "old2", "old3", "old4", "new", "old9"]);
    expect(asked).toHaveLength(11);
    expect(accounts.get("new")?.id).toBe("new");
  });

  it("keeps what the server does not know, and asks again after a failure", async () => {
    let fails = true;
    const changed: string[] = [];
    const accounts = new Accounts(
      async () => {
        if (fails) throw new Error("away");
        return undefined;
      },
      (id) => changed.push(id),
    );
    accounts.want(["a"]);
    await turn();
    expect(accounts.get("a")).toBeUndefined();
    fails = false;
    accounts.want(["a"]);
    await turn();
    expect(accounts.get("a")).toBeNull();
    expect(changed).toEqual(["a"]);
  });

  it("keeps a limited number, and counts the engines", async () => {
    const accounts = new Accounts(
      async (id) => account(id, id < "c" ? "one" : "two"),
      () => {},
      5,
      3,
    );
    for (const id of ["a", "b", "c", "d"]) {
      accounts.want([id]);
      await turn();
    }
    expect(accounts.get("a")).toBeUndefined();
    expect(accounts.engines()).toEqual([
      ["two", 2],
      ["one", 1],
    ]);
    accounts.clear();
    expect(accounts.engines()).toEqual([]);
  });
});
