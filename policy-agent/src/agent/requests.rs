//! Changes that somebody asks for: checked, written down, programmed, kept; all of it or nothing.

use std::{sync::Arc, time::Instant};

use axum::http::StatusCode;
use policy_api::{
    diagnostic::Diagnostic,
    messages::{ApplyRequest, ApplyResponse, DeleteRequest, Refusal},
};
use policy_core::model::Model;
use tokio::sync::oneshot;
use tracing::{error, info};

use super::Agent;
use crate::{
    inventory::stands_for_all,
    resources::{Checked, Resources},
    server::{Answer, Made, Preview, Refused, Request},
};

impl Agent {
    pub(super) fn serve(&mut self, request: Request) {
        let (answer, reply): (Answer, oneshot::Sender<Answer>) = match request {
            Request::Apply(request, reply) => (self.apply(request), reply),
            Request::Delete(request, reply) => (self.delete(request), reply),
            Request::Preview(question, reply) => {
                let _ = reply.send(self.preview(&question));
                return;
            }
            Request::Capture(wanted, reply) => {
                let done = self.maps.capture(wanted).map_err(|error| {
                    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
                });
                let _ = reply.send(done);
                return;
            }
        };
        if let Err(refused) = &answer {
            info!(reason = refused.refusal.error, "request refused");
        }
        // The caller may have gone; the change holds all the same.
        let _ = reply.send(answer);
    }

    fn apply(&mut self, request: ApplyRequest) -> Answer {
        self.ready()?;
        let checked = self.resources.apply(request.resources).map_err(refused)?;
        self.change(checked, request.dry_run)
    }

    fn delete(&mut self, request: DeleteRequest) -> Answer {
        self.ready()?;
        let checked =
            self.resources.delete(request.resources, request.ignore_not_found).map_err(|d| {
                let status = StatusCode::NOT_FOUND;
                Refused { status, ..refused(d) }
            })?;
        self.change(checked, false)
    }

    /// The models as they are now and with other resources, at one point in time. Nothing is
    /// compiled here: whoever asks may take its time with that.
    fn preview(&self, question: &Preview) -> Result<[Model; 2], Refused> {
        self.ready()?;
        let conflicts = self.inventory.new_conflicts(&self.resources, &question.resources);
        if !conflicts.is_empty() {
            return Err(refused(conflicts));
        }
        let view = self.fence.view();
        let model = |resources: &Resources, base: &Model| {
            self.inventory.model(&self.config, resources, base, &view)
        };
        Ok([model(&self.resources, &self.base), model(&question.resources, &question.base)])
    }

    fn ready(&self) -> Result<(), Refused> {
        if self.complete() {
            return Ok(());
        }
        let reason = self.inventory.docker_detail();
        Err(Refused::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "containers are enforced as an earlier agent left them, and nothing can be changed until Docker has been read: {reason}"
            ),
        ))
    }

    /// Makes a checked change: compile, write down, program, keep. All or nothing. The model is the
    /// one with the change.
    fn change(&mut self, checked: Checked, dry_run: bool) -> Answer {
        let started = Instant::now();
        let view = self.fence.view();
        let conflicts = self.inventory.new_conflicts(&self.resources, &checked.resources);
        if !conflicts.is_empty() {
            return Err(refused(conflicts));
        }
        let base = checked.resources.base(self.config.policy);
        let model = self.inventory.model(&self.config, &checked.resources, &base, &view);
        let planned = self
            .compiler
            .plan(&model)
            .map_err(|error| Refused::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
        let response = ApplyResponse {
            results: checked.results,
            endpoints_changed: planned.plan.endpoints_changed,
            endpoints_total: model
                .endpoints
                .values()
                .filter(|spec| stands_for_all(spec.plane))
                .count(),
            revision: planned.plan.revision,
            warnings: checked.warnings,
        };
        let model = Arc::new(model);
        if dry_run {
            return Ok(Made { response, model });
        }
        let internal = |error: String| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error);
        if !checked.changes.is_empty() {
            self.store
                .prepare(&checked.changes)
                .map_err(|error| internal(format!("nothing was changed: {error}")))?;
        }
        if let Err(error) = self.execute(planned) {
            if !checked.changes.is_empty()
                && let Err(error) = self.store.take_back()
            {
                error!(%error, "cannot take back a change that the kernel refused");
            }
            self.reconcile();
            return Err(internal(format!(
                "the kernel refused the change, the earlier policy holds: {error}"
            )));
        }
        if !checked.changes.is_empty() {
            self.store.carry_out(checked.changes);
        }
        self.resources = Arc::new(checked.resources);
        self.base = base;
        self.model = Arc::clone(&model);
        self.in_step = true;
        self.datapath_error = None;
        self.metrics.applied(started.elapsed().as_secs_f64());
        info!(
            endpoints = response.endpoints_changed,
            revision = response.revision,
            "policy changed"
        );
        // A new static endpoint's interface gets its programs here.
        self.reconcile();
        Ok(Made { response, model })
    }
}

fn refused(diagnostics: Vec<Diagnostic>) -> Refused {
    let error = match diagnostics.len() {
        1 => "one error, nothing was changed".to_owned(),
        count => format!("{count} errors, nothing was changed"),
    };
    Refused { status: StatusCode::UNPROCESSABLE_ENTITY, refusal: Refusal { error, diagnostics } }
}
