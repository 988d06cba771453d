//! The pages of the keys that Roundsman keeps, and their forms.

use http::StatusCode;
use warp::reply::Response;

use super::super::api::keys::kind;
use super::super::error::{Failure, problem};
use super::super::pages::Notice;
use super::super::pages::form::FieldProblem;
use super::super::pages::keys::{KeyForms, KeyPage, KeysPage};
use super::super::request::{Access, Request};
use super::super::routes::{Route, see_other};
use super::{done, doors, field_problems, show, tags as names, viewer};
use crate::actions::Action;
use crate::fleet::{FleetError, ImportedKey, KeySummary, RotationScope};
use crate::model::Secret;
use crate::operations::NewOperation;
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/keys", Access::VIEWER, keys),
        Route::post("/keys", Access::ADMIN, create),
        Route::post("/keys/import", Access::ADMIN, import),
        Route::get("/keys/{id}", Access::VIEWER, key),
        Route::post("/keys/{id}/rename", Access::ADMIN, rename),
        Route::post("/keys/{id}/default", Access::ADMIN, make_default),
        Route::post("/keys/{id}/certificate", Access::ADMIN, attach),
        Route::post("/keys/{id}/certificate/remove", Access::ADMIN, detach),
        Route::post("/keys/{id}/rotate", Access::ADMIN, rotate),
        Route::post("/keys/{id}/delete", Access::ADMIN, delete),
    ]
}

/// What a form was refused for: its status, and the field that is meant or a notice.
struct Refused {
    status: StatusCode,
    problems: Vec<FieldProblem>,
    notice: Option<Notice>,
}

impl Refused {
    fn of(error: FleetError) -> Self {
        let problems = match &error {
            FleetError::KeyNameTaken(_) => Some(vec![FieldProblem {
                field: "name".to_owned(),
                sentence: doors::sentence(&error.to_string()),
            }]),
            other => field_problems(other),
        };
        let said = problem(&error.into());
        let notice = problems.is_none().then(|| Notice::problem(doors::sentence(&said.detail)));
        Self { status: said.status, problems: problems.unwrap_or_default(), notice }
    }
}

async fn keys(request: Request, services: Services) -> Result<Response, Failure> {
    list_page(&request, &services, StatusCode::OK, &KeyForms::default(), done(&request)).await
}

async fn list_page(
    request: &Request,
    services: &Services,
    status: StatusCode,
    forms: &KeyForms,
    notice: Option<Notice>,
) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let keys = services.fleet.keys(caller).await?;
    let default = match keys.iter().find(|key| key.is_default) {
        Some(key) => Some(services.fleet.key(caller, &key.id.to_string()).await?),
        None => None,
    };
    let mut page = KeysPage::new(&viewer(request)?, &keys, default.as_ref(), forms, services.clock.now());
    page.chrome.notice = notice;
    show(status, &page)
}

async fn key(request: Request, services: Services) -> Result<Response, Failure> {
    key_page(&request, &services, StatusCode::OK, &KeyForms::default(), done(&request)).await
}

async fn key_page(
    request: &Request,
    services: &Services,
    status: StatusCode,
    forms: &KeyForms,
    notice: Option<Notice>,
) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let detail = services.fleet.key(caller, request.param(0)).await?;
    let others = services.fleet.keys(caller).await?;
    let mut page = KeyPage::new(&viewer(request)?, &detail, &others, forms, services.clock.now());
    page.chrome.notice = notice;
    show(status, &page)
}

async fn create(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let kind = kind(form.optional("kind").as_deref())?;
    match services.fleet.create_key(request.caller()?, form.text("name"), kind).await {
        Ok(key) => Ok(see_other(&format!("/keys/{}?done=key-made", key.id))),
        Err(error) => {
            let refused = Refused::of(error);
            let forms = KeyForms {
                create_name: form.text("name").to_owned(),
                create_kind: kind.name().to_owned(),
                sent: "create",
                problems: refused.problems,
                ..KeyForms::default()
            };
            list_page(&request, &services, refused.status, &forms, refused.notice).await
        }
    }
}

async fn import(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let imported = ImportedKey {
        name: form.optional("name"),
        text: Secret::new(form.text("private_key").replace("\r\n", "\n")),
        passphrase: form.optional("passphrase").map(Secret::new),
        source_path: None,
    };
    match services.fleet.import_named_key(request.caller()?, imported).await {
        Ok(key) => Ok(see_other(&format!("/keys/{}?done=key-imported", key.id))),
        Err(error) => {
            let refused = Refused::of(error);
            let forms = KeyForms {
                import_name: form.text("name").to_owned(),
                sent: "import",
                problems: refused.problems,
                ..KeyForms::default()
            };
            list_page(&request, &services, refused.status, &forms, refused.notice).await
        }
    }
}

/// Back to the key's page with what was done, or with what is wrong.
async fn changed(
    request: &Request,
    services: &Services,
    outcome: Result<KeySummary, FleetError>,
    word: &str,
    mut forms: KeyForms,
) -> Result<Response, Failure> {
    match outcome {
        Ok(key) => Ok(see_other(&format!("/keys/{}?done={word}", key.id))),
        Err(error @ FleetError::NoSuchKey(_)) => Err(error.into()),
        Err(error) => {
            let refused = Refused::of(error);
            forms.problems = refused.problems;
            key_page(request, services, refused.status, &forms, refused.notice).await
        }
    }
}

async fn rename(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let name = form.text("name");
    let outcome = services.fleet.rename_key(request.caller()?, request.param(0), name).await;
    let forms = KeyForms { new_name: name.trim().to_owned(), sent: "rename", ..KeyForms::default() };
    changed(&request, &services, outcome, "saved", forms).await
}

async fn make_default(request: Request, services: Services) -> Result<Response, Failure> {
    let outcome = services.fleet.set_default_key(request.caller()?, request.param(0)).await;
    changed(&request, &services, outcome, "key-default", KeyForms::default()).await
}

async fn attach(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let line = form.text("certificate");
    let outcome = services.fleet.attach_certificate(request.caller()?, request.param(0), line).await;
    let forms = KeyForms { sent: "certificate", ..KeyForms::default() };
    changed(&request, &services, outcome, "key-certificate", forms).await
}

async fn detach(request: Request, services: Services) -> Result<Response, Failure> {
    let outcome = services.fleet.detach_certificate(request.caller()?, request.param(0)).await;
    changed(&request, &services, outcome, "key-certificate-removed", KeyForms::default()).await
}

async fn rotate(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let scope = RotationScope {
        servers: names(form.text("servers")),
        tag: form.optional("tag"),
        verify_old: form.optional("verify_old").is_some(),
    };
    let caller = request.caller()?;
    let forms = KeyForms {
        rotate_to: form.text("to").to_owned(),
        rotate_servers: form.text("servers").to_owned(),
        rotate_tag: form.text("tag").to_owned(),
        sent: "rotate",
        ..KeyForms::default()
    };
    let planned = services.fleet.plan_rotation(caller, request.param(0), form.text("to"), &scope).await;
    let (rotation, servers) = match planned {
        Ok(planned) => planned,
        Err(FleetError::NoSuchServer(name)) => {
            let error =
                FleetError::Invalid { field: "servers", message: FleetError::NoSuchServer(name).to_string() };
            return changed(&request, &services, Err(error), "", forms).await;
        }
        Err(error) => return changed(&request, &services, Err(error), "", forms).await,
    };
    match services
        .operations
        .begin(caller, NewOperation { action: Action::RotateKey(rotation), servers })
        .await
    {
        Ok(view) => Ok(see_other(&format!("/operations/{}", view.operation.id))),
        Err(error) => {
            let said = problem(&error.into());
            let notice = Some(Notice::problem(doors::sentence(&said.detail)));
            key_page(&request, &services, said.status, &forms, notice).await
        }
    }
}

async fn delete(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let detail = services.fleet.key(request.caller()?, request.param(0)).await?;
    if form.text("confirm").trim() != detail.key.name {
        return Err(Failure::invalid(format!(
            "type the name '{}' to confirm; nothing was deleted",
            detail.key.name
        )));
    }
    match services.fleet.delete_key(request.caller()?, request.param(0)).await {
        Ok(()) => Ok(see_other("/keys?done=key-deleted")),
        Err(error) => changed(&request, &services, Err(error), "", KeyForms::default()).await,
    }
}
