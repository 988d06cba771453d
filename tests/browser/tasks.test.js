// Tasks: the form with its next runs while one types, a run, its history; both themes and a phone.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Browser, LOOKS, Roundsman, Sshd, becomes, enrol, presentable, setUp, shot } from "./harness.js";

describe("tasks", () => {
  const roundsman = new Roundsman();
  const sshd = new Sshd();
  let browser;
  let cookies;
  let page;

  before(async () => {
    await Promise.all([roundsman.start(), sshd.start()]);
    enrol(roundsman, sshd, "web-1");
    browser = await Browser.launch();
    const profile = await browser.profile();
    page = await profile.newPage();
    await setUp(page, roundsman);
    cookies = await profile.cookies();
  });

  after(async () => {
    await browser?.close();
    await sshd.remove();
    await roundsman.remove();
  });

  test("a task is made while its next runs are shown, run and looked up", async () => {
    await page.goto(`${roundsman.url}/tasks`);
    await page.getByText("No tasks yet").waitFor();
    await page.getByRole("link", { name: "Make the first task" }).click();
    await page.fill("input[name=name]", "Nightly look");
    await page.fill("input[name=time_zone]", "Europe/Berlin");
    browser.expect(/status of 422/);
    await page.fill("input[name=cron]", "0 0 30 2 *");
    await becomes(page, "#schedule", /never runs/, 5000);
    await page.fill("input[name=cron]", "30 3 * * mon-fri");
    await becomes(page, "#schedule", /At 03:30, Monday to Friday/, 5000);
    assert.equal(await page.locator("#schedule li").count(), 5);
    await page.fill("textarea[name=command]", "echo looked");
    await page.fill("textarea[name=server]", "web-1");
    await shot(page, "task-form");
    await page.getByRole("button", { name: "Make the task" }).click();
    await page.getByRole("heading", { name: "Nightly look", level: 1 }).waitFor();
    assert.equal(await page.locator("#next li").count(), 5);
    const place = page.url();
    await page.getByRole("button", { name: "Run now" }).click();
    await page.waitForURL(/\/operations\//);
    await becomes(page, "#operation-progress", /Completed/, 10000);
    await page.goto(place);
    await becomes(page, "#history", /Completed/, 10000);
    await shot(page, "task-after-a-run");
  });

  test("an open list follows what happens elsewhere, and the switch works by keyboard", async () => {
    await page.goto(`${roundsman.url}/tasks`);
    roundsman.run("task", "add", "from the shell", "--cron", "@weekly", "--run", "true", "--all");
    await page.getByRole("link", { name: "from the shell" }).waitFor();
    await page.getByRole("button", { name: "Disable Nightly look" }).focus();
    await page.keyboard.press("Enter");
    await page.waitForURL(/done=task-off/);
    await page.getByRole("button", { name: "Enable Nightly look" }).waitFor();
    const listed = JSON.parse(roundsman.run("task", "list", "--json"));
    assert.deepEqual(listed.map((task) => [task.name, task.enabled]), [["Nightly look", false], ["from the shell", true]]);
    roundsman.run("task", "enable", "Nightly look");
    assert.match(roundsman.run("task", "run", "Nightly look"), /looked/);
    assert.match(roundsman.run("task", "show", "Nightly look"), /manual/);
    await page.getByRole("button", { name: "Disable Nightly look" }).waitFor();
  });

  test("another kind of action brings its fields, and what was typed stays", async () => {
    await page.goto(`${roundsman.url}/tasks/new`);
    await page.fill("input[name=name]", "Message of the day");
    await page.fill("input[name=cron]", "@weekly");
    await page.fill("textarea[name=server]", "web-1");
    await page.getByLabel("What is done").focus();
    await page.getByLabel("What is done").selectOption("update_configuration");
    await page.locator("#what-fields input[name=path]").waitFor();
    assert.equal(await page.locator("textarea[name=command]").count(), 0);
    await page.fill("input[name=path]", "/tmp/roundsman-browser-motd");
    await page.fill("textarea[name=text]", "Hello");
    await page.fill("input[name=validate]", "test -s /tmp/roundsman-browser-motd");
    await page.getByText("More: as whom, where, with what").click();
    await page.fill("input[name=permissions]", "0600");
    await shot(page, "task-form-file");
    await page.getByRole("button", { name: "Make the task" }).click();
    await page.getByRole("heading", { name: "Message of the day", level: 1 }).waitFor();
    await page.getByRole("link", { name: "Edit" }).click();
    assert.equal(await page.inputValue("input[name=permissions]"), "600");
    assert.equal(await page.inputValue("textarea[name=text]"), "Hello\n");
    await page.getByRole("link", { name: "Cancel" }).click();
    roundsman.run("task", "remove", "Message of the day");
  });

  test("an operation leads back to the task that began it", async () => {
    await page.goto(`${roundsman.url}/tasks`);
    await page.getByRole("link", { name: "Nightly look" }).click();
    await page.getByRole("button", { name: "Run now" }).click();
    await page.waitForURL(/\/operations\//);
    await page.locator(".begun-by").getByRole("link", { name: "Nightly look" }).click();
    await page.getByRole("heading", { name: "Nightly look", level: 1 }).waitFor();
  });

  test("both themes, a phone, and no script", async () => {
    await page.goto(`${roundsman.url}/tasks`);
    const places = await page.evaluate(() => [...document.querySelectorAll(".tasks-table .col-name a")].map((link) => link.href));
    for (const [name, options] of Object.entries(LOOKS)) {
      const profile = await browser.profile(options);
      await profile.addCookies(cookies);
      const other = await profile.newPage();
      for (const [what, url] of [
        ["tasks", `${roundsman.url}/tasks`],
        ["task", places[0]],
        ["task-form", `${places[0]}/edit`],
        ["task-file", `${roundsman.url}/tasks/new?operation_type=update_configuration`],
      ]) {
        await other.goto(url);
        await presentable(other, `${what}-${name}`);
      }
      await profile.close();
    }
    const plain = await browser.profile({ javaScriptEnabled: false });
    await plain.addCookies(cookies);
    const other = await plain.newPage();
    await other.goto(`${roundsman.url}/tasks/new`);
    await other.fill("input[name=cron]", "@hourly");
    await other.getByRole("button", { name: "Show the next runs" }).click();
    await other.getByText("On the hour, every hour").waitFor();
    await other.getByLabel("What is done").selectOption("reboot");
    await other.getByRole("button", { name: "Show its fields" }).click();
    await other.getByText("Nobody is asked again when it runs").waitFor();
    assert.equal(await other.inputValue("input[name=cron]"), "@hourly");
    await other.goto(`${roundsman.url}/tasks`);
    await other.getByRole("link", { name: "Nightly look" }).click();
    await other.getByRole("heading", { name: "Next runs" }).waitFor();
    await plain.close();
  });
});
