//! The controller: whether it runs, reads what there is, and can sign.

use super::super::facts::{Asked, Controller, Facts};
use super::{Check, Section, for_long, log_of};

/// What ends sooner is told of, in seconds: 30 days, as the controller's own log does.
const ENDS_SOON: i64 = 30 * 86_400;
/// The guide on authorities.
const AUTHORITY: &str = "docs/guides/authority.md";

pub(super) fn section(facts: &Facts) -> Section {
    let not_ready = facts.components.iter().filter(|component| !component.ready);
    let not_ready: Vec<String> = not_ready
        .map(|component| {
            let why = component.message.as_deref().unwrap_or("it does not say why");
            format!("{} is not ready: {why}", component.name)
        })
        .collect();
    let logs = facts.components.iter().find(|component| !component.ready).map(|component| component.name.clone());
    let mut checks = vec![
        Check::of(
            "installed",
            format!("the mesh is installed ({} parts)", facts.components.len()),
            if facts.components.is_empty() {
                vec![format!("nothing of the mesh runs in namespace {}", facts.mesh_namespace)]
            } else {
                Vec::new()
            },
            "fairway install, or name the namespace that it is in with --mesh-namespace",
        ),
        Check::of(
            "parts-ready",
            "every part of the mesh is ready",
            not_ready,
            format!("see why: {}", log_of(facts, logs.as_deref().unwrap_or("NAME"))),
        ),
        Check::of(
            "controller-answers",
            "the controller answers",
            silent(&facts.controllers),
            format!("see why: {}", log_of(facts, first(facts))),
        ),
    ];
    let answered: Vec<(&str, &Controller)> =
        facts.controllers.iter().filter_map(|(name, it)| Some((name.as_str(), it.as_ref().ok()?))).collect();
    if !answered.is_empty() {
        checks.extend(of_answers(facts, &answered));
    }
    Section { title: "control plane", checks }
}

fn first(facts: &Facts) -> &str {
    facts.controllers.first().map_or("controller", |(name, _)| name)
}

fn silent(controllers: &[(String, Asked<Controller>)]) -> Vec<String> {
    if controllers.is_empty() {
        return vec!["there is none".to_owned()];
    }
    let errors = controllers.iter().filter_map(|(name, it)| Some(format!("{name}: {}", it.as_ref().err()?)));
    errors.collect()
}

fn of_answers(facts: &Facts, answered: &[(&str, &Controller)]) -> Vec<Check> {
    let each = |told: &dyn Fn(&Controller) -> Option<String>| -> Vec<String> {
        answered.iter().filter_map(|(name, it)| Some(format!("{name}: {}", told(it)?))).collect()
    };
    let ends = |it: &Controller| [("what signs certificates", it.signer_ends), ("the root", it.root_ends)];
    let over = |it: &Controller| {
        let over = ends(it).into_iter().filter_map(|(what, end)| Some((what, end.filter(|end| *end <= facts.now)?)));
        let told: Vec<String> = over
            .map(|(what, end)| format!("{what} ended {} ago, nothing is signed", for_long(facts.now - end)))
            .collect();
        (!told.is_empty()).then(|| told.join("; "))
    };
    let soon = |it: &Controller| {
        let is_soon = |end: &i64| *end > facts.now && end - facts.now < ENDS_SOON;
        let soon = ends(it).into_iter().filter_map(|(what, end)| Some((what, end.filter(is_soon)?)));
        let told: Vec<String> =
            soon.map(|(what, end)| format!("{what} ends in {}", for_long(end - facts.now))).collect();
        (!told.is_empty()).then(|| told.join("; "))
    };
    let renew = if facts.is_lab {
        format!(
            "put a certificate that holds beside its key in the controller's state directory, ca/root-cert.pem: {AUTHORITY}"
        )
    } else {
        format!(
            "put a certificate that holds into the Secret or directory of the authority; no restart is needed: {AUTHORITY}"
        )
    };
    vec![
        Check::of("authority-valid", "the certificate authority is valid", each(&over), &renew),
        Check::doubtful("authority-lasts", "it is valid for 30 days or more", each(&soon), renew),
        Check::of(
            "authority-usable",
            "what is in the authority's files or Secret can be used",
            each(&|it| it.authority_refused.then(|| "it is refused, and the last good one is used".to_owned())),
            format!("the controller's log names the file and what is wrong: {}", log_of(facts, first(facts))),
        ),
        Check::of(
            "objects-read",
            "the controller reads all objects",
            each(&|it| {
                let stale = it.stale_seconds;
                (stale > 0).then(|| format!("some cannot be read for {stale} s; what was read last holds"))
            }),
            format!("its log says which: {}", log_of(facts, first(facts))),
        ),
        Check::of(
            "mesh-config-usable",
            "the mesh configuration can be used",
            each(&|it| {
                it.mesh_config_refused.then(|| "it is refused, and the last good one is in force, or none".to_owned())
            }),
            "fairway analyze says what is wrong with it; what may be in it: docs/guides/waypoint.md",
        ),
        Check::of(
            "policies-kept",
            "the last good versions of policies are kept",
            each(&|it| it.policies_lost.then(|| "its state directory cannot be written or read".to_owned())),
            "make room or set right the permissions of the controller's --state-dir",
        ),
    ]
}
