#!/usr/bin/env python3
"""Loopback stand-in for the W&B backend: stdlib only, in memory, enough for wandb 0.31 online runs and `wandb sync`.

    python fake_wandb_server.py --port 8765            # or --port 0 (prints the URL)
    export WANDB_BASE_URL=http://127.0.0.1:8765 WANDB_API_KEY=$(printf 'f%.0s' {1..40}) WANDB_MODE=online
    curl -s $WANDB_BASE_URL/_state                     # what arrived, as JSON
    curl -s -XPOST $WANDB_BASE_URL/_fault -d '{"match":"file_stream","status":429,"times":3,"delay":0}'

In tests:  with FakeWandb() as s: os.environ.update(s.env()); ...; s.runs["me/proj/id"]["history"]
"""

import argparse
import base64
import gzip
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

OP = re.compile(r"^\s*(?:#[^\n]*\n\s*)*(?:fragment[\s\S]*?\n}\s*)*(query|mutation)\s+(\w+)", re.M)


def gid(s):
    return base64.b64encode(s.encode()).decode()


def new_run(entity, project, name):
    return {
        "entity": entity,
        "project": project,
        "name": name,
        "displayName": name,
        "config": {},
        "tags": [],
        "group": None,
        "jobType": None,
        "notes": None,
        "state": "running",
        "exitcode": None,
        "preempting": False,
        "upserts": 0,
        "posts": 0,
        "heartbeats": 0,
        "history": [],
        "events": [],
        "output": {},
        "summary": {},
        "writers": {},
        "files": {},
        "uploaded": [],
        "used": [],
        "logged": [],
    }


class State:
    def __init__(
        self,
        entity="me",
        features=(
            "FILESTREAM_GZIP",
            "LARGE_FILENAMES",
            "CLIENT_IDS",
            "ARTIFACT_TAGS",
            "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
        ),
    ):
        self.lock = threading.RLock()
        self.entity, self.features = entity, features
        self.runs, self.artifacts, self.client_ids, self.storage = {}, {}, {}, {}
        self.ops, self.unknown, self.faults, self.requests, self.views = {}, [], [], 0, {}

    # ---- runs
    def run(self, e, p, n):
        return self.runs.setdefault(f"{e}/{p}/{n}", new_run(e, p, n))

    def bucket(self, r):
        return {
            "id": gid(f"Run:{r['name']}:{r['project']}:{r['entity']}"),
            "name": r["name"],
            "displayName": r["displayName"],
            "description": r["notes"],
            "config": json.dumps(r["config"]),
            "sweepName": None,
            "historyLineCount": len(r["history"]),
            "project": {
                "id": gid("P:" + r["project"]),
                "name": r["project"],
                "entity": {"id": gid("E:" + r["entity"]), "name": r["entity"]},
            },
        }

    # ---- graphql operations: name -> data
    def UpsertBucket(self, v, base):
        if v.get("name"):
            key = f"{v.get('entity') or self.entity}/{v.get('project') or 'uncategorized'}/{v['name']}"
        else:
            _, n, p, e = base64.b64decode(v["id"]).decode().split(":")
            key = f"{e}/{p}/{n}"
        fresh = key not in self.runs
        r = self.run(*key.split("/"))
        r["upserts"] += 1
        for src, dst in {
            "displayName": "displayName",
            "groupName": "group",
            "jobType": "jobType",
            "notes": "notes",
            "tags": "tags",
            "state": "state",
        }.items():
            if v.get(src) is not None:
                r[dst] = v[src]
        if v.get("config"):
            r["config"].update(json.loads(v["config"]))
        if v.get("summaryMetrics"):
            r["summary"] = json.loads(v["summaryMetrics"])
        return {"upsertBucket": {"bucket": self.bucket(r), "inserted": fresh}}

    def RunResumeStatus(self, v, base):
        e, p = v.get("entity") or self.entity, v.get("project")
        r = self.runs.get(f"{e}/{p}/{v['name']}")
        b = None
        if r:
            b = dict(
                self.bucket(r),
                summaryMetrics=json.dumps(r["summary"]),
                logLineCount=len(r["output"]),
                eventsLineCount=len(r["events"]),
                tags=r["tags"],
                notes=r["notes"],
                historyTail=json.dumps([json.dumps(h) for h in r["history"][-1:]]),
                eventsTail=json.dumps([json.dumps(h) for h in r["events"][-1:]]),
                wandbConfig=json.dumps({"t": r["config"].get("_wandb", {}).get("value", {}).get("t", 1)}),
            )
        return {"model": {"id": gid("P"), "name": p, "entity": {"id": gid("E"), "name": e}, "bucket": b}}

    def Viewer(self, v, base):
        return {
            "viewer": {
                "id": gid("User:1"),
                "entity": self.entity,
                "username": self.entity,
                "email": "me@localhost",
                "flags": "{}",
                "admin": False,
                "teams": {"edges": [{"node": {"name": self.entity}}]},
            }
        }

    GetViewer = Viewer

    def GetDefaultEntity(self, v, base):
        return {"viewer": {"id": gid("User:1"), "entity": self.entity, "defaultEntity": {"name": self.entity}}}

    def ServerFeaturesQuery(self, v, base):
        return {"serverInfo": {"features": [{"name": f, "isEnabled": True} for f in self.features]}}

    def ServerInfo(self, v, base):
        return {
            "serverInfo": {
                "cliVersionInfo": {"max_cli_version": "9.9.9", "min_cli_version": "0.0.1"},
                "latestLocalVersionInfo": None,
            }
        }

    def OrganizationCoreWeaveOrganizationID(self, v, base):
        return {"entity": {"organization": None}}

    def UpsertView2(self, v, base):  # wandb-workspaces: Workspace.save()
        vid = v.get("id") or gid(f"View:{len(self.views)}")
        self.views[vid] = dict(v, spec=json.loads(v["spec"]))
        return {
            "upsertView": {
                "inserted": True,
                "view": {
                    "id": vid,
                    "type": v.get("type"),
                    "name": v.get("name"),
                    "displayName": v.get("displayName"),
                    "description": v.get("description"),
                    "spec": v["spec"],
                    "project": {"id": gid("P"), "name": v.get("projectName"), "entityName": v.get("entityName")},
                },
            }
        }

    def Views(self, v, base):
        edges = [
            {"node": {"id": vid, "name": view.get("name"), "displayName": view.get("displayName")}}
            for vid, view in self.views.items()
            if (view.get("entityName"), view.get("projectName"), view.get("type"))
            == (v.get("entityName"), v.get("name"), v.get("viewType"))
        ]
        return {"project": {"allViews": {"edges": edges}}}

    def RunStoppedStatus(self, v, base):
        return {"project": {"run": {"stopped": False}}}

    def CreateRunFiles(self, v, base):
        k = f"{v['entity']}/{v['project']}/{v['run']}"
        return {
            "createRunFiles": {
                "runID": gid(k),
                "uploadHeaders": [],
                "files": [{"name": f, "uploadUrl": f"{base}/storage/run/{k}/{f}"} for f in v["files"]],
            }
        }

    def MarkRunFilesUploaded(self, v, base):
        return {"markRunFilesUploaded": {"success": True}}

    # ---- artifacts
    def CreateArtifact(self, v, base):
        i = v["input"]
        seq = f"{i['entityName']}/{i['projectName']}/{i['artifactCollectionName']}"
        vers = [a for a in self.artifacts.values() if a["seq"] == seq]
        same = next((a for a in vers if a["digest"] == i["digest"] and i.get("enableDigestDeduplication")), None)
        prev = vers[-1]["id"] if vers else None
        a = same or {
            "id": gid(f"Artifact:{len(self.artifacts)}"),
            "seq": seq,
            "type": i["artifactTypeName"],
            "version": f"v{len(vers)}",
            "digest": i["digest"],
            "state": "PENDING",
            "run": i.get("runName"),
            "aliases": [x["alias"] for x in i.get("aliases") or []],
            "manifest": None,
            "metadata": json.loads(i.get("metadata") or "{}"),
            "description": i.get("description"),
        }
        self.artifacts[a["id"]] = a
        self.client_ids[i.get("clientID")] = a["id"]
        if i.get("runName"):
            self.run(i["entityName"], i["projectName"], i["runName"])["logged"].append(f"{seq}:{a['version']}")
        return {
            "createArtifact": {
                "artifact": {
                    "id": a["id"],
                    "state": a["state"],
                    "artifactSequence": {"id": gid(seq), "latestArtifact": {"id": prev} if prev else None},
                }
            }
        }

    def _manifest(self, aid, base, upload):
        f = {"id": gid("F:" + aid)}
        if upload:
            f.update(uploadUrl=f"{base}/storage/manifest/{aid}", uploadHeaders=[])
        return {"artifactManifest": {"id": gid("M|" + aid), "file": f}}

    def CreateArtifactManifest(self, v, base):
        return {"createArtifactManifest": self._manifest(v["artifactID"], base, v.get("includeUpload"))}

    def UpdateArtifactManifest(self, v, base):
        aid = base64.b64decode(v["artifactManifestID"]).decode().split("|", 1)[1]
        return {"updateArtifactManifest": self._manifest(aid, base, v.get("includeUpload"))}

    def CreateArtifactFiles(self, v, base):
        return {
            "createArtifactFiles": {
                "files": {
                    "edges": [
                        {
                            "node": {
                                "storagePath": f"{f['artifactID']}/{f['name']}",
                                "uploadHeaders": [],
                                "uploadMultipartUrls": None,
                                "uploadUrl": f"{base}/storage/artifact/{f['artifactID']}/{f['name']}",
                                "artifact": {"id": f["artifactID"]},
                            }
                        }
                        for f in v.get("artifactFiles") or v["input"]["artifactFiles"]
                    ]
                }
            }
        }

    def CommitArtifact(self, v, base):
        a = self.artifacts[v["artifactID"]]
        a["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": a["id"], "digest": a["digest"]}}}

    def UseArtifact(self, v, base):
        i = v.get("input") or v
        a = self.artifacts[i["artifactID"]]
        self.run(i["entityName"], i["projectName"], i["runName"])["used"].append(f"{a['seq']}:{a['version']}")
        return {"useArtifact": {"artifact": {"id": a["id"]}}}

    def ClientIDMapping(self, v, base):
        s = self.client_ids.get(v["clientID"])
        return {"clientIDMapping": {"serverID": s} if s else None}

    def _artifact(self, a):
        e, p, n = a["seq"].split("/")
        proj = {
            "id": gid("P"),
            "internalId": gid("ProjectInternalId:1"),
            "name": p,
            "entity": {"id": gid("E"), "name": e},
        }
        coll = {"__typename": "ArtifactSequence", "id": gid(a["seq"]), "name": n, "project": proj}
        return {
            "__typename": "Artifact",
            "id": a["id"],
            "artifactType": {"id": gid("T"), "name": a["type"]},
            "artifactSequence": coll,
            "versionIndex": int(a["version"][1:]),
            "digest": a["digest"],
            "description": a["description"],
            "metadata": json.dumps(a["metadata"]),
            "ttlDurationSeconds": -1,
            "ttlIsInherited": False,
            "tags": [],
            "historyStep": None,
            "state": a["state"],
            "size": 0,
            "fileCount": 0,
            "commitHash": "c0ffee",
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None,
            "currentManifest": None,
            "aliases": [
                {
                    "__typename": "ArtifactAlias",
                    "id": gid(x),
                    "alias": x,
                    "artifactCollectionName": n,
                    "artifactCollection": coll,
                }
                for x in a["aliases"] + [a["version"]]
            ],
        }

    def _named(self, e, p, name):
        coll, _, ref = name.partition(":")
        m = [a for a in self.artifacts.values() if a["seq"] == f"{e}/{p}/{coll}"]
        m = [a for a in m if ref in ("", "latest", a["version"]) or ref in a["aliases"]]
        return m[-1] if m else None

    def dispatch(self, op, query, v, base):
        self.ops[op] = self.ops.get(op, 0) + 1
        h = getattr(self, op, None)
        if h and not op.startswith("_"):
            return h(v, base)
        if op == "ArtifactByName" or "artifact(name:" in query.replace(" ", ""):
            a = self._named(
                v.get("entityName") or v.get("entity"), v.get("projectName") or v.get("project"), v.get("name")
            )
            return {"project": {"id": gid("P"), "artifact": self._artifact(a) if a else None}}
        if op == "ArtifactMembershipByName":
            a = self._named(v["entity"], v["project"], v["name"])
            m = a and {
                "__typename": "ArtifactCollectionMembership",
                "id": gid("AM:" + a["id"]),
                "versionIndex": int(a["version"][1:]),
                "createdAt": "2026-01-01T00:00:00Z",
                "aliases": self._artifact(a)["aliases"],
                "artifactCollection": self._artifact(a)["artifactSequence"],
                "artifact": self._artifact(a),
            }
            return {"project": {"artifactCollectionMembership": m or None}}
        if op == "ArtifactByID":
            a = self.artifacts.get(v.get("id"))
            return {"artifact": self._artifact(a) if a else None}
        self.unknown.append({"op": op, "query": query[:4000], "variables": v})
        return None

    # ---- file_stream
    def file_stream(self, e, p, n, body, headers):
        r = self.run(e, p, n)
        r["posts"] += 1
        files = body.get("files") or {}
        if not body.get("complete") and not files and not body.get("uploaded"):
            r["heartbeats"] += 1
        shared = headers.get("X-WANDB-USE-ASYNC-FILESTREAM") == "true"
        w = headers.get("X-WANDB-ASYNC-CLIENT-ID", "-")
        r["writers"][w] = r["writers"].get(w, 0) + 1
        for name, c in files.items():
            lines, off = c["content"], c.get("offset", 0)
            key = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events"}.get(name)
            if key:
                rows = [json.loads(x) for x in lines]
                if shared:  # many writers: the backend orders by arrival and numbers the steps
                    for x in rows:
                        if key == "history":
                            x["_step"] = len(r[key])
                        r[key].append(x)
                else:  # one writer: offset addresses the line, so a re-send overwrites
                    r[key][off : off + len(rows)] = rows
            elif name == "wandb-summary.json":
                r["summary"] = json.loads(lines[-1])
            elif name.endswith("output.log"):
                for k, x in enumerate(lines):
                    r["output"][off + k] = x
        r["uploaded"] += body.get("uploaded") or []
        r["preempting"] = body.get("preempting", r["preempting"])
        if body.get("complete"):
            r["exitcode"] = body.get("exitcode")
            r["state"] = "finished" if r["exitcode"] == 0 else "failed"
        return {"exitcode": None, "limits": {}, "stopped": False}

    def dump(self):
        with self.lock:
            return {
                "runs": self.runs,
                "artifacts": list(self.artifacts.values()),
                "ops": self.ops,
                "unknown": self.unknown,
                "requests": self.requests,
                "views": self.views,
                "storage": {k: len(v) for k, v in self.storage.items()},
            }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *a):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            out = b""
            while n := int(self.rfile.readline().split(b";")[0], 16):
                out += self.rfile.read(n)
                self.rfile.readline()
            self.rfile.readline()
        else:
            out = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(out) if self.headers.get("Content-Encoding") == "gzip" else out

    def reply(self, obj, status=200, raw=None):
        data = raw if raw is not None else json.dumps(obj).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def fault(self, what):
        for f in self.state.faults:
            if f["times"] > 0 and re.search(f["match"], what):
                f["times"] -= 1
                time.sleep(f.get("delay", 0))
                if f.get("status"):
                    self.reply({"error": "injected", "errors": [{"message": "injected"}]}, f["status"])
                    return True
        return False

    def do_POST(self):
        s, raw, path = self.state, self.body(), urlsplit(self.path).path
        base = f"http://{self.headers.get('Host')}"
        s.requests += 1
        if path == "/_fault":
            s.faults.append({"times": 1, **json.loads(raw)})
            return self.reply({"ok": True})
        if path == "/graphql":
            req = json.loads(raw)
            m = OP.search(req["query"]) or re.search(r"\b(query|mutation)\s+(\w+)", req["query"])
            op = m.group(2) if m else "?"
            if self.fault("graphql:" + op):
                return
            with s.lock:
                try:
                    data = s.dispatch(op, req["query"], req.get("variables") or {}, base)
                except Exception as e:  # answer instead of dropping the line: the client retries drops for ever
                    s.unknown.append(
                        {"op": op, "error": repr(e), "query": req["query"][:4000], "variables": req.get("variables")}
                    )
                    data = None
            if data is None:
                return self.reply({"data": None, "errors": [{"message": f"fake server: no operation {op}"}]}, 200)
            return self.reply({"data": data})
        m = re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path)
        if m:
            if self.fault("file_stream"):
                return
            with s.lock:
                return self.reply(s.file_stream(*map(unquote, m.groups()), json.loads(raw), self.headers))
        self.reply({}, 404)

    def do_PUT(self):
        s, raw, path = self.state, self.body(), unquote(urlsplit(self.path).path)
        s.requests += 1
        if self.fault("storage:" + path):
            return
        with s.lock:
            s.storage[path] = raw
            if path.startswith("/storage/run/"):
                e, p, n, f = path[len("/storage/run/") :].split("/", 3)
                s.run(e, p, n)["files"][f] = hashlib.md5(raw).hexdigest()
            elif path.startswith("/storage/manifest/"):
                s.artifacts[path.rsplit("/", 1)[1]]["manifest"] = json.loads(raw)
        self.reply({})

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if path == "/_state":
            return self.reply(self.state.dump())
        raw = self.state.storage.get(path)
        self.reply({}, 200 if raw is not None or path in ("/", "/healthz") else 404, raw)


class FakeWandb:
    """Context manager; `.runs` and `.artifacts` are live views."""

    def __init__(self, port=0, host="127.0.0.1", **kw):
        self.state = State(**kw)
        self.httpd = ThreadingHTTPServer((host, port), type("H", (Handler,), {"state": self.state}))
        self.httpd.daemon_threads = True
        self.httpd.handle_error = lambda *a: None  # wandb-core resets idle connections when it exits
        self.url = f"http://{host}:{self.httpd.server_address[1]}"

    runs = property(lambda self: self.state.runs)
    artifacts = property(lambda self: self.state.artifacts)

    def fault(self, match, status=429, times=1, delay=0.0):
        self.state.faults.append({"match": match, "status": status, "times": times, "delay": delay})

    def env(self):
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "f" * 40,
            "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false",
        }

    def __enter__(self):
        threading.Thread(target=self.httpd.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *a):
        self.httpd.shutdown()
        self.httpd.server_close()


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--port", type=int, default=8765)
    ap.add_argument("--entity", default="me")
    o = ap.parse_args()
    f = FakeWandb(o.port, entity=o.entity)
    print(f.url, flush=True)
    f.httpd.serve_forever()
