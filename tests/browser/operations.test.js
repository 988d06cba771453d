// Beginning an operation step by step, following it, and what it leaves: with and without scripts, in both themes, on a phone.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { Browser, LOOKS, Roundsman, Sshd, becomes, enrol, eventually, presentable, setUp, shot } from "./harness.js";

// With more than 20 servers each is a line that opens.
const IDLE = 22;

describe("operations", () => {
  const roundsman = new Roundsman();
  const daemons = ["web-1", "web-2", "web-3"].map((name) => ({ name, sshd: new Sshd() }));
  const gate = path.join(roundsman.dir, "gate");
  let browser;
  let cookies;
  let page;

  before(async () => {
    await Promise.all([roundsman.start(), ...daemons.map(({ sshd }) => sshd.start())]);
    for (const { name, sshd } of daemons) {
      fs.writeFileSync(path.join(sshd.path("home"), "version"), name === "web-3" ? "one\n2.4\nthree\n" : "one\n2.3\nthree\n");
      enrol(roundsman, sshd, name, "--tag", "web");
    }
    const list = path.join(roundsman.dir, "servers");
    fs.writeFileSync(list, Array.from({ length: IDLE }, (_, index) => `root@127.0.0.1:${index + 2} name=idle-${index + 1} tags=idle\n`).join(""));
    roundsman.run("import", list, "--unchecked");
    roundsman.run("group", "create", "front", "--color", "teal");
    roundsman.run("group", "add", "front", "web-1", "web-2");
    browser = await Browser.launch();
    const profile = await browser.profile();
    page = await profile.newPage();
    await setUp(page, roundsman);
    cookies = await profile.cookies();
    // Nothing can be done to these: they fail at once, without a connection.
    const answers = await page.evaluate(
      (count) => {
        const token = document.querySelector("meta[name=csrf-token]").content;
        const headers = { "content-type": "application/json", "x-csrf-token": token };
        const inactive = (number) => fetch(`/api/v1/fleet/servers/idle-${number}`, { method: "PATCH", headers, body: JSON.stringify({ status: "inactive" }) });
        return Promise.all(Array.from({ length: count }, (_, index) => inactive(index + 1).then((answer) => answer.status)));
      },
      IDLE,
    );
    assert.ok(answers.every((status) => status === 200), String(answers));
  });

  after(async () => {
    await browser?.close();
    for (const { sshd } of daemons) await sshd.remove();
    await roundsman.remove();
  });

  const next = (on) => on.getByRole("button", { name: "Next" }).click();
  const heading = (on, words) => on.getByRole("heading", { name: words }).waitFor();

  /** Ended operations, newest first. */
  const operations = () => JSON.parse(roundsman.run("op", "list", "--json"));

  async function loggedIn(options) {
    const profile = await browser.profile(options);
    await profile.addCookies(cookies);
    return profile.newPage();
  }

  test("the bar leads through the steps to an operation, and back and forth nothing is lost", async () => {
    await page.goto(`${roundsman.url}/?view=table&tag=web`);
    for (const { name } of daemons) await page.getByLabel(`Choose ${name}`, { exact: true }).check();
    await page.getByRole("button", { name: "Run command…" }).click();
    await heading(page, "3. Details");
    assert.match(await page.locator(".wizard-said").innerText(), /Run a command[\s\S]*3 servers/);
    await page.fill("textarea[name=command]", "cat $HOME/version");
    await next(page);
    await heading(page, "4. How");
    await page.getByRole("button", { name: "One first, then a tenth, then the rest" }).click();
    await eventually("the preset", async () => (await page.inputValue("input[name=batches]")) === "1,10%,100%");
    await page.fill("input[name=health_gate_s]", "");
    await page.getByRole("button", { name: "Back" }).click();
    await heading(page, "3. Details");
    assert.equal(await page.inputValue("textarea[name=command]"), "cat $HOME/version");
    await page.getByRole("button", { name: "Step 5: Look and begin" }).click();
    await heading(page, "5. Look and begin");
    assert.match(await page.locator("main").innerText(), /in batches of 1, then 1, then 1[\s\S]*Exactly this is sent to 3[\s\S]*cat \$HOME\/version/);
    await shot(page, "wizard-confirm");
    await page.getByRole("button", { name: "Begin on 3 servers" }).click();
    await page.waitForURL(/\/operations\/[0-9a-f-]{36}$/);
    await becomes(page, "#operation-progress", /2 identical, 1 differs/, 60_000);
    assert.match(await page.locator(".batches").innerText(), /Batch 3 of 3[\s\S]*succeeded/);
  });

  test("equal answers are one, the others say how they differ and are chosen with one press", async () => {
    const clusters = page.locator(".clusters");
    assert.match(await clusters.locator("pre.diff").innerText(), /-2\.3\n\+2\.4/);
    await clusters.getByText("What they all said").click();
    await clusters.getByText("2.3").first().waitFor();
    await shot(page, "operation-clusters");
    await page.getByRole("button", { name: "Choose the outlier" }).click();
    await heading(page, "1. What");
    assert.equal(await page.locator("input[type=hidden][name=server]").inputValue(), "web-3");
  });

  test("which servers are meant is told while they are being chosen", async () => {
    browser.expect(/status of 422/);
    await page.goto(`${roundsman.url}/operations/new?operation_type=run_command`);
    await heading(page, "2. Which servers");
    await page.locator("#preview").getByText("No server is chosen yet").waitFor();
    await page.getByLabel("front (2)").check();
    await page.locator("#preview").getByText("web-2").waitFor();
    assert.match(await page.locator("#preview").innerText(), /^2\s+servers/);
    await page.fill("textarea[name=server]", "web-3, ghost");
    await page.locator("#preview").getByText("ghost").waitFor();
    await page.fill("textarea[name=server]", "idle-1");
    await page.locator("#preview").getByText(/nothing can be done to 1 of them/).waitFor();
    assert.match(await page.locator("#preview").innerText(), /3\s+servers[\s\S]*idle-1[\s\S]*inactive/);
    await page.fill("textarea[name=server]", "");
    await page.getByLabel("front (2)").uncheck();
    await next(page);
    await page.getByText("Say which servers").waitFor();
  });

  test("what is wrong is told beside its field, and the keyboard goes on with Enter", async () => {
    browser.expect(/status of 422/);
    await page.goto(`${roundsman.url}/operations/new?operation_type=restart_service&server=web-1`);
    await heading(page, "3. Details");
    await page.fill("input[name=service]", "$(id)");
    await page.keyboard.press("Enter");
    await page.locator(".field.is-wrong", { hasText: "is not a service name" }).waitFor();
    await page.fill("input[name=service]", "nginx");
    await page.keyboard.press("Enter");
    await heading(page, "4. How");
    await page.fill("input[name=batches]", "0%");
    await page.keyboard.press("Enter");
    await page.locator(".field.is-wrong", { hasText: "neither a number" }).waitFor();
  });

  test("a script gets its variables, and a secret one is asked for where it is sent", async () => {
    browser.expect(/status of 422/);
    await page.goto(`${roundsman.url}/operations/new?operation_type=run_script&server=web-1`);
    await heading(page, "3. Details");
    await page.fill("textarea[name=script]", 'printf "%s/%s\\n" "$STAGE" "${#KEY}"');
    await page.getByText("More: as whom, where, with what").click();
    await page.getByLabel("Environment variables", { exact: false }).first().fill("STAGE=two words");
    await page.fill("input[name=secret_names]", "KEY");
    await shot(page, "wizard-script-more");
    await page.getByRole("button", { name: "Step 5: Look and begin" }).click();
    await heading(page, "5. Look and begin");
    await page.getByLabel("KEY").fill("hunter2-hunter2");
    await shot(page, "wizard-secret");
    await page.getByRole("button", { name: "Begin on 1 server" }).click();
    await page.waitForURL(/\/operations\/[0-9a-f-]{36}$/);
    await page.locator("#target-0 .printed pre", { hasText: "two words/15" }).waitFor();
    assert.doesNotMatch(await page.content(), /hunter2/);
  });

  test("what is dangerous is begun only after the server's name was typed", async () => {
    await page.goto(`${roundsman.url}/operations/new?operation_type=remove_agent&server=web-1`);
    await next(page);
    await next(page);
    const begin = page.getByRole("button", { name: "Begin on 1 server" });
    assert.equal(await begin.isDisabled(), true);
    await page.getByLabel(/Type web-1/).fill("web-2");
    assert.equal(await begin.isDisabled(), true);
    await page.getByLabel(/Type web-1/).fill("web-1");
    await shot(page, "wizard-dangerous");
    await page.keyboard.press("Enter");
    await page.waitForURL(/\/operations\/[0-9a-f-]{36}$/);
    await becomes(page, "#operation-progress", /1 of 1/, 60_000);
  });

  test("only what is opened is sent, live, and the page follows to the end", async () => {
    await page.goto(`${roundsman.url}/operations/new?operation_type=run_command&tag=web&to=parameters`);
    await page.getByRole("button", { name: "Step 2: Which servers" }).click();
    await page.fill("input[name=tag]", "");
    await page.getByLabel(/Every server that fits/).check();
    // This machine is one of all, and nothing is done to it either.
    await page.locator("#preview .done", { hasText: "26" }).waitFor();
    await next(page);
    await page.fill("textarea[name=command]", `echo begun; while [ ! -e ${gate} ]; do sleep 0.1; done; cat $HOME/version`);
    await next(page);
    await next(page);
    await page.getByRole("button", { name: "Begin on 26 servers" }).click();
    await page.waitForURL(/\/operations\/[0-9a-f-]{36}$/);
    const row = (name) => page.locator("details.target-row", { hasText: name }).first();
    await row("web-1").getByText("Running").waitFor();
    assert.equal(await page.locator(".target-body").count(), 0);
    await row("web-1").locator("summary").click();
    await row("web-1").locator(".printed pre", { hasText: "begun" }).waitFor();
    assert.match(page.url(), /\?open=\d+$/);
    assert.equal(await page.locator(".target-body").count(), 1);
    await page.getByRole("button", { name: "Pause" }).click();
    await page.getByRole("button", { name: "Resume" }).waitFor();
    await page.locator("#operation-progress").getByText("Paused").waitFor();
    await page.getByRole("button", { name: "Resume" }).click();
    await page.getByRole("button", { name: "Pause" }).waitFor();
    await row("web-1").locator("summary").click();
    await row("web-1").locator(".printed pre", { hasText: "begun" }).waitFor();
    await page.locator("#live-state[data-state=live]").waitFor();
    fs.writeFileSync(gate, "");
    await row("web-1").locator(".printed pre", { hasText: "three" }).waitFor();
    await becomes(page, "#operation-progress", /26 of 26/, 60_000);
    assert.match(await page.locator(".clusters h2").innerText(), /2 identical, 1 differs, 22 unreachable, 1 failed/);
    await page.reload();
    await row("web-1").locator(".printed pre", { hasText: "three" }).waitFor();
    await page.locator(".counts-of a", { hasText: "Unreachable" }).click();
    await page.waitForURL(/status=unreachable/);
    assert.equal(await page.locator("details.target-row").count(), 22);
    await page.getByRole("link", { name: "Show all" }).click();
    assert.equal(await page.locator("details.target-row").count(), 26);
  });

  test("the keyboard opens a server's line", async () => {
    await page.goto(`${roundsman.url}/operations/${operations()[0].id}`);
    await page.locator("details.target-row summary").first().focus();
    await page.keyboard.press("Enter");
    await page.locator("details.target-row[open] .target-body").waitFor();
  });

  test("without WebSocket the page of an operation follows all the same, and it can be cancelled", async () => {
    browser.expect(/WebSocket/);
    const own = await loggedIn();
    await own.routeWebSocket(/\/live/, (socket) => socket.close());
    await own.goto(`${roundsman.url}/operations/new?operation_type=run_command&server=web-1,web-2&command=${encodeURIComponent("echo waits; sleep 300")}&to=confirm`);
    await own.getByRole("button", { name: "Begin on 2 servers" }).click();
    await own.waitForURL(/\/operations\/[0-9a-f-]{36}$/);
    await own.locator("#live-state[data-state=polling]").waitFor();
    await own.locator("#target-1 .printed pre", { hasText: "waits" }).waitFor();
    await own.getByRole("button", { name: "Cancel" }).click();
    await own.waitForURL(/done=cancelled/);
    await becomes(own, "#operation-progress", /2 of 2/, 60_000);
    await own.context().close();
  });

  test("without a script every step is a page, and a line opens by a link", async () => {
    const own = await loggedIn({ javaScriptEnabled: false });
    await own.goto(`${roundsman.url}/operations/new`);
    await own.getByText("Run a command", { exact: true }).click();
    await next(own);
    await own.getByLabel("front (2)").check();
    await own.getByRole("button", { name: "Show which these are" }).click();
    assert.match(await own.locator("#preview").innerText(), /2\s+servers\s+web-1/);
    await next(own);
    await own.fill("textarea[name=command]", "echo plain");
    await next(own);
    await next(own);
    await own.getByRole("button", { name: "Begin on 2 servers" }).click();
    await own.waitForURL(/\/operations\/[0-9a-f-]{36}$/);
    await eventually("the end", async () => {
      await own.reload();
      return /2 of 2/.test(await own.locator("#operation-progress").innerText());
    });
    assert.match(await own.locator("main").innerText(), /2 identical/);
    const many = operations().find((one) => one.total_servers > 20);
    await own.goto(`${roundsman.url}/operations/${many.id}`);
    const row = own.locator("details.target-row", { hasText: "web-2" }).first();
    await row.locator("summary").click();
    await row.getByRole("link", { name: "Command and output" }).click();
    await own.waitForURL(/open=\d+/);
    assert.match(await own.locator("details.target-row[open]").innerText(), /begun[\s\S]*three/);
    await own.context().close();
  });

  test("the list is narrowed by its fields, and the address keeps it", async () => {
    await page.goto(`${roundsman.url}/operations`);
    await page.getByLabel("Status").selectOption("cancelled");
    await page.waitForURL(/\/operations\?status=cancelled$/);
    assert.equal(await page.locator(".operations-table tbody tr").count(), 1);
    await page.locator("input[name=server]").fill("web-3");
    await page.keyboard.press("Enter");
    await page.getByText("No operation fits").waitFor();
    await page.getByRole("link", { name: "Clear" }).click();
    await page.waitForURL(/\/operations$/);
  });

  for (const [look, options] of Object.entries(LOOKS)) {
    test(`wizard, progress and clusters fit and are readable: ${look}`, async () => {
      const own = await loggedIn(options);
      const fits = (name) => presentable(own, `${name}-${look}`);
      await own.goto(`${roundsman.url}/operations/new`);
      await fits("wizard-1");
      await own.getByText("Run a command", { exact: true }).click();
      await next(own);
      await own.getByLabel("front (2)").check();
      await own.fill("textarea[name=server]", "idle-1");
      await own.locator("#preview .done", { hasText: "3" }).waitFor();
      await fits("wizard-2");
      await next(own);
      await own.fill("textarea[name=command]", "systemctl is-active nginx\nuptime");
      await own.getByText("More: as whom, where, with what").click();
      await own.fill("input[name=secret_names]", "API_KEY, A_SECOND_AND_LONGER_NAME");
      await fits("wizard-3");
      await next(own);
      await fits("wizard-4");
      await next(own);
      await fits("wizard-5");
      const list = operations();
      const many = list.find((one) => one.total_servers > 20);
      const batched = list.find((one) => one.total_servers === 3);
      await own.goto(`${roundsman.url}/operations/${many.id}`);
      await own.locator("details.target-row", { hasText: "web-1" }).first().locator("summary").click();
      await own.locator("details.target-row[open] .target-body pre").first().waitFor();
      await fits("operation-many");
      await own.goto(`${roundsman.url}/operations/${batched.id}`);
      await fits("operation-batches");
      await own.goto(`${roundsman.url}/operations`);
      await fits("operations");
      await own.goto(`${roundsman.url}/operations/new?operation_type=run_command&server=ghost`);
      await fits("wizard-refused");
      await own.goto(`${roundsman.url}/settings`);
      assert.equal(await own.locator("#operations input:checked").inputValue(), "share");
      await fits("settings");
      await own.context().close();
    });
  }

  test("no page complained", () => browser.assertQuiet());
});
