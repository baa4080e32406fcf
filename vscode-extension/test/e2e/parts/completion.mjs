// Ghost text: shown, accepted, typed through, superseded at the engine, switched off.
import { sleep, until } from "../harness.mjs";
import { KEY } from "../server.mjs";

/** Requests that ended because their client left them, as the gateway counts them. */
async function cancelled(server) {
  const answer = await fetch(`${server.url}/metrics`, { headers: { authorization: `Bearer ${KEY}` } });
  return Number(/^aicockpit_cancelled_total\{reason="client_left"\} (\S+)/m.exec(await answer.text())?.[1] ?? 0);
}

export default async function play({ desk, server, step, assert }) {
  await step("ghost text of several lines", async () => {
    await desk.file("main.py");
    await desk.keys("Control+End", "Enter", "Enter");
    await desk.type("def sub(a, b):");
    await desk.untilGhost("\n    return a - b");
    await desk.picture("completion");
  });
  await step("Tab accepts", async () => {
    await desk.keys("Tab");
    await desk.save();
    await until(() => desk.read("main.py").endsWith("def sub(a, b):\n    return a - b"), "the file on disk");
  });
  await step("the request named the workspace and the path", async () => {
    const { requests } = await server.get("/api/requests?limit=50");
    const completions = requests.filter((one) => one.route === "/v1/completions");
    assert.ok(
      completions.some((one) => one.context),
      JSON.stringify(completions).slice(0, 800),
    );
  });
  await step("line by line, then word by word", async () => {
    await desk.keys("Control+End", "Enter", "Home", "Shift+End", "Delete");
    await desk.type("def many():");
    await desk.untilGhost(/^\s*\n {4}first = 1\s+return first$/);
    await desk.keys("Control+Shift+ArrowRight");
    await desk.untilGhost(/^ *first = 1\s+return first$/);
    await desk.keys("Control+ArrowRight");
    await desk.untilGhost(/^first = 1\s+return first$/); // the blanks of the line are a word of their own
    await desk.keys("Control+ArrowRight");
    await desk.untilGhost(/^ *= 1\s+return first$/);
    await desk.keys("Tab");
  });
  await step("a slow answer is shown as far as it has come, then whole", async () => {
    await desk.keys("Control+End", "Enter", "Home");
    await server.engineSet({ token_delay: 2 });
    await desk.type("drip = ");
    await desk.untilGhost("call(1,");
    await desk.untilGhost(/^call\(1,\s+2,\s+3\)$/);
    await server.engineSet({ token_delay: 0 });
    await desk.keys("Escape");
  });
  await step("several candidates by key", async () => {
    await desk.keys("Control+End", "Enter", "Home");
    await desk.type("choice = ");
    await desk.untilGhost("first(1)");
    await desk.keys("Alt+\\");
    await until(async () => {
      await desk.keys("Alt+]");
      return (await desk.ghost()) === "second(2)";
    }, "the second one");
    await desk.picture("candidates");
    await desk.keys("Escape");
  });
  await step("typing along with a suggestion asks for nothing", async () => {
    await desk.keys("Control+End", "Enter", "Home");
    await desk.type("answer = ");
    await desk.untilGhost("42");
    const count = async () => (await server.get("/api/requests?limit=500")).requests.length;
    let before = -1;
    await until(async () => {
      const last = before;
      before = await count();
      await sleep(300);
      return before === last; // a request is counted when it has ended
    }, "nothing in work");
    await desk.type("4");
    await desk.untilGhost("2");
    assert.equal(await count(), before);
    await desk.picture("type-through");
  });
  await step("Escape dismisses", async () => {
    await desk.keys("Escape");
    await until(async () => (await desk.ghost()).trim() === "", "no ghost text");
    await desk.keys("Backspace");
  });
  await step("a newer keystroke ends the older request at the engine", async () => {
    await desk.keys("Control+End", "Enter", "Home");
    await server.engineSet({ token_delay: 2 });
    const before = (await server.engineState()).aborted ?? 0;
    const counted = await cancelled(server);
    await desk.type("slow = ", 30);
    await until(async () => (await server.engineState()).running > 0, "a request runs at the engine");
    await desk.keys("Enter");
    await desk.type("x", 30);
    await until(async () => (await server.engineState()).aborted > before, "the engine dropped the older one");
    await until(async () => (await cancelled(server)) > counted, "the gateway counts it as cancelled");
    await server.engineSet({ token_delay: 0 });
    await until(async () => (await server.engineState()).running === 0, "nothing runs any more");
  });
}
