// Ghost text: shown, accepted, typed through, superseded at the engine, switched off.
import { until } from "../harness.mjs";

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
  await step("typing along with a suggestion asks for nothing", async () => {
    await desk.keys("Control+End", "Enter", "Home");
    await desk.type("answer = ");
    await desk.untilGhost("42");
    const before = (await server.get("/api/requests?limit=500")).requests.length;
    await desk.type("4");
    await desk.untilGhost("2");
    assert.equal((await server.get("/api/requests?limit=500")).requests.length, before);
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
    await desk.type("slow = ", 30);
    await until(async () => (await server.engineState()).running > 0, "a request runs at the engine");
    await desk.keys("Enter");
    await desk.type("x", 30);
    await until(async () => (await server.engineState()).aborted > before, "the engine dropped the older one");
    await server.engineSet({ token_delay: 0 });
    await until(async () => (await server.engineState()).running === 0, "nothing runs any more");
  });
}
