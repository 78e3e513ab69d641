// The gateway's HTTP API: JSON, problem details, pictures, and streams of events.

const KEY = "xr-api-key";

export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || "The gateway gave no reason.");
    this.status = status;
    this.title = problem.title || `Status ${status}`;
    this.requestId = problem.request_id || "";
    this.problem = problem;
  }
}

export const apiKey = () => sessionStorage.getItem(KEY) || "";
export const keepApiKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));

async function send(path, { method = "GET", body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (apiKey()) sent.Authorization = `Bearer ${apiKey()}`;
  const raw = body instanceof Blob || body instanceof FormData;
  if (body !== undefined && !raw) sent["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers: sent, signal, body: raw || body === undefined ? body : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { title: "The gateway does not answer", detail: "Is it running? `xr up` starts everything on this machine; then try again." });
  }
  if (response.ok) return response;
  if (response.status === 401) document.dispatchEvent(new CustomEvent("key-needed"));
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    problem = { title: response.statusText };
  }
  throw new ApiError(response.status, problem);
}

const json = async (path, options) => (await send(path, options)).json();

export const get = (path, options = {}) => json(path, options);
export const post = (path, body, options = {}) => json(path, { ...options, method: "POST", body });
export const remove = (path) => send(path, { method: "DELETE" });
export const text = async (path) => (await send(path)).text();
export const blob = async (path) => (await send(path)).blob();

/** Server-sent events of a request: calls `on(name, data)` for each until the stream ends. */
export async function stream(path, options, on) {
  const response = await send(path, { ...options, headers: { ...options.headers, Accept: "text/event-stream" } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    waiting += value.replaceAll("\r\n", "\n");
    let end;
    while ((end = waiting.indexOf("\n\n")) >= 0) {
      const event = waiting.slice(0, end);
      waiting = waiting.slice(end + 2);
      let name = "message";
      const data = [];
      for (const line of event.split("\n")) {
        if (line.startsWith("event:")) name = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      }
      if (data.length) on(name, JSON.parse(data.join("\n")));
    }
  }
}

export const pictureUrl = (gallery, image, width = 320) =>
  `/v1/galleries/${encodeURIComponent(gallery)}/images/${encodeURIComponent(image)}?width=${width}`;
