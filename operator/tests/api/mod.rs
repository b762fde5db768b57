//! An API server in memory, as far as the operator uses one: it stores objects, counts versions,
//! answers watches with nothing, remembers every request, and fails on demand.
//!
//! Server-side apply is played by replacing everything but the status: one manager owns all fields
//! of these objects. What a real API server does beyond that is tested in `e2e`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// The API server; clones share it.
#[derive(Clone, Default)]
pub(crate) struct ApiServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    requests: Vec<(Method, String)>,
    version: u64,
    uid: u64,
    fail_write: Option<(usize, StatusCode)>,
    writes: usize,
}

impl ApiServer {
    /// A client that talks to this server.
    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Stores an object at its path, as if somebody else had made it.
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut state = self.0.lock().unwrap();
        state.stamp(&mut object, None);
        state.objects.insert(path.to_owned(), object);
    }

    /// Changes an object, as if somebody else had done it.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.0.lock().unwrap();
        let before = state.objects[path].clone();
        let mut object = before.clone();
        change(&mut object);
        state.stamp(&mut object, Some(&before));
        state.objects.insert(path.to_owned(), object);
    }

    /// Removes an object, as if somebody else had done it.
    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path).unwrap();
    }

    /// The object at a path.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// All objects, without events.
    pub(crate) fn objects(&self) -> BTreeMap<String, Value> {
        let state = self.0.lock().unwrap();
        state
            .objects
            .iter()
            .filter(|(path, _)| !path.contains("/events/"))
            .map(own)
            .collect()
    }

    /// The reasons of all events.
    pub(crate) fn events(&self) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let events = state
            .objects
            .iter()
            .filter(|(path, _)| path.contains("/events/"));
        events
            .map(|(_, event)| event["reason"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The requests so far that were meant to change something, and forgets all.
    pub(crate) fn take_writes(&self) -> Vec<String> {
        let mut state = self.0.lock().unwrap();
        let requests = std::mem::take(&mut state.requests);
        requests
            .into_iter()
            .filter(|(method, _)| *method != Method::GET)
            .map(|(method, path)| format!("{method} {path}"))
            .collect()
    }

    /// Answers the n-th write from now on, counted from 0, with an error.
    pub(crate) fn fail_write(&self, n: usize) {
        let mut state = self.0.lock().unwrap();
        state.fail_write = Some((n, StatusCode::INTERNAL_SERVER_ERROR));
        state.writes = 0;
    }

    /// Answers the n-th write from now on, counted from 0, by calling it not valid.
    pub(crate) fn refuse_write(&self, n: usize) {
        let mut state = self.0.lock().unwrap();
        state.fail_write = Some((n, StatusCode::UNPROCESSABLE_ENTITY));
        state.writes = 0;
    }

    /// Whether the failure that was asked for has happened.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.lock().unwrap().fail_write.is_none()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let (status, value) = self
            .0
            .lock()
            .unwrap()
            .handle(&parts.method, &path, &query, body);
        Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(Body::from(serde_json::to_vec(&value).unwrap()))
            .unwrap()
    }
}

fn own((path, object): (&String, &Value)) -> (String, Value) {
    (path.clone(), object.clone())
}

impl State {
    fn handle(
        &mut self,
        method: &Method,
        path: &str,
        query: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        self.requests.push((method.clone(), path.to_owned()));
        if *method != Method::GET {
            if let Some((n, status)) = self.fail_write
                && n == self.writes
            {
                self.fail_write = None;
                return failure(status, "FailedByTheTest");
            }
            self.writes += 1;
        }
        match method.as_str() {
            "GET" => self.read(path, query),
            "PATCH" if path.ends_with("/status") => {
                self.patch_status(path.trim_end_matches("/status"), body)
            }
            "PATCH" => self.apply(path, body),
            "POST" => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                self.apply(&format!("{path}/{name}"), body)
            }
            "DELETE" => self.delete(path, &body),
            other => panic!("unexpected {other} {path}"),
        }
    }

    fn read(&self, path: &str, query: &str) -> (StatusCode, Value) {
        if let Some(object) = self.objects.get(path) {
            return (StatusCode::OK, object.clone());
        }
        let last = path.rsplit('/').next().unwrap();
        let is_collection = [
            "serviceaccounts",
            "secrets",
            "configmaps",
            "services",
            "poddisruptionbudgets",
            "statefulsets",
            "pods",
            "persistentvolumeclaims",
        ]
        .contains(&last);
        if !is_collection {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        }
        let selector: Vec<(String, String)> = query
            .split('&')
            .find_map(|part| part.strip_prefix("labelSelector="))
            .map(|text| {
                text.replace("%2F", "/")
                    .replace("%3D", "=")
                    .replace("%2C", ",")
            })
            .unwrap_or_default()
            .split(',')
            .filter_map(|term| term.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        assert!(
            !selector.is_empty() || last == "persistentvolumeclaims",
            "a list without a selector: {path}?{query}"
        );
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(at, _)| {
                at.strip_prefix(path)
                    .is_some_and(|rest| rest.starts_with('/'))
            })
            .map(|(_, object)| object)
            .filter(|object| {
                selector
                    .iter()
                    .all(|(key, value)| object["metadata"]["labels"][key] == **value)
            })
            .collect();
        (
            StatusCode::OK,
            json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}),
        )
    }

    fn apply(&mut self, path: &str, mut object: Value) -> (StatusCode, Value) {
        let before = self.objects.get(path).cloned();
        if let Some(status) = before.as_ref().and_then(|before| before.get("status")) {
            object["status"] = status.clone();
        }
        self.stamp(&mut object, before.as_ref());
        self.objects.insert(path.to_owned(), object.clone());
        (StatusCode::OK, object)
    }

    fn patch_status(&mut self, path: &str, body: Value) -> (StatusCode, Value) {
        let Some(before) = self.objects.get(path).cloned() else {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        };
        let mut object = before.clone();
        object["status"] = body["status"].clone();
        self.stamp(&mut object, Some(&before));
        self.objects.insert(path.to_owned(), object.clone());
        (StatusCode::OK, object)
    }

    fn delete(&mut self, path: &str, options: &Value) -> (StatusCode, Value) {
        let Some(object) = self.objects.get(path) else {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        };
        let expected = &options["preconditions"]["uid"];
        assert_eq!(
            *expected, object["metadata"]["uid"],
            "a delete without the uid: {path}"
        );
        let object = self.objects.remove(path).unwrap();
        (StatusCode::OK, object)
    }

    /// Gives an object what an API server gives it: uid, and new numbers if it changed.
    fn stamp(&mut self, object: &mut Value, before: Option<&Value>) {
        let metadata = |of: Option<&Value>, key: &str| {
            of.and_then(|of| of["metadata"].get(key))
                .filter(|value| !value.is_null())
                .cloned()
        };
        let uid = metadata(before, "uid").or_else(|| metadata(Some(object), "uid"));
        let uid = uid.unwrap_or_else(|| {
            self.uid += 1;
            json!(format!("uid-{}", self.uid))
        });
        object["metadata"]["uid"] = uid;
        let generation = metadata(before, "generation")
            .and_then(|g| g.as_i64())
            .unwrap_or(0);
        let same_spec = before.is_some_and(|before| before["spec"] == object["spec"]);
        let has_generation = ["StatefulSet", "PodDisruptionBudget", "FlightCluster"]
            .contains(&object["kind"].as_str().unwrap_or_default());
        if has_generation {
            object["metadata"]["generation"] = json!(generation + i64::from(!same_spec));
        }
        let version = metadata(before, "resourceVersion");
        object["metadata"]["resourceVersion"] = version.clone().unwrap_or(Value::Null);
        if version.is_none() || before != Some(&*object) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        }
    }
}

fn failure(status: StatusCode, reason: &str) -> (StatusCode, Value) {
    let code = status.as_u16();
    let message = format!("answered by the test with {reason}");
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": message,
    });
    (status, body)
}
