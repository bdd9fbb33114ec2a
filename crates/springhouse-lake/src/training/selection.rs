//! Which features are asked for, and what their columns are called.

use crate::error::{LakeError, Result, did_you_mean};
use crate::training::plan::ServiceColumns;
use springhouse_core::Definitions;
use springhouse_core::definition::{FeatureRef, FeatureService, OnStale};
use std::collections::BTreeSet;

/// A column of the training set, by name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AskedFeature {
    pub reference: FeatureRef,
    /// True when the default stands in for a stale value.
    pub stale_is_default: bool,
    /// What its column is called.
    pub name: String,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub features: Vec<AskedFeature>,
    pub services: Vec<ServiceColumns>,
}

/// A feature of a service (or of none), before it has a column.
#[derive(Clone, Debug, PartialEq)]
struct Candidate {
    reference: FeatureRef,
    stale_is_default: bool,
}

/// Resolves services and features to columns.
///
/// - `services` alone: all of their features, in order. `features` alone: those of the definitions, with the policy of no
///   service. Both: the services' features that `features` names, in the order of `features`.
/// - An item of `features` is `feature`, `view` (or `view:*`), or `view:feature`.
/// - A feature that several services have is one column. A column is called `feature`; `view:feature` where two views of
///   what is offered have a feature of that name; `service/view:feature` where services treat its stale values differently.
///   A subset changes no name.
pub(crate) fn asked(definitions: &Definitions, services: &[String], features: &[String]) -> Result<Asked> {
    if services.is_empty() && features.is_empty() {
        return Err(LakeError::new("nothing_asked", "neither a feature service nor a feature is named")
            .hint("name a service (`--service`), or features (`--features view:feature,...`)"));
    }
    let known = services.iter().map(|name| service(definitions, name)).collect::<Result<Vec<_>>>()?;
    let mut offered: Vec<Candidate> = Vec::new();
    for service in &known {
        for candidate in candidates(service) {
            if !offered.contains(&candidate) {
                offered.push(candidate);
            }
        }
    }
    if known.is_empty() {
        offered = everything(definitions);
    }
    let mut wanted: Vec<&Candidate> = Vec::new();
    for item in features {
        for candidate in named(&offered, item, &known)? {
            if !wanted.contains(&candidate) {
                wanted.push(candidate);
            }
        }
    }
    if features.is_empty() {
        wanted = offered.iter().collect();
    }
    // What no service is asked about is named by what is wanted: nobody asked for all there is.
    let naming: Vec<&Candidate> = if known.is_empty() { wanted.clone() } else { offered.iter().collect() };
    let features = wanted.iter().map(|candidate| AskedFeature {
        reference: candidate.reference.clone(),
        stale_is_default: candidate.stale_is_default,
        name: column_name(candidate, &naming, &known),
    });
    let features: Vec<AskedFeature> = features.collect();
    let services = known.iter().map(|service| columns_of(service, &features)).collect();
    Ok(Asked { features, services })
}

fn service<'a>(definitions: &'a Definitions, name: &str) -> Result<&'a FeatureService> {
    definitions.feature_services.get(name).ok_or_else(|| {
        let known = definitions.feature_services.keys().map(String::as_str);
        let hint = did_you_mean(name, known.clone())
            .unwrap_or_else(|| format!("the services are {}", known.collect::<Vec<_>>().join(", ")));
        LakeError::new("unknown_service", format!("there is no feature service `{name}`")).hint(hint)
    })
}

fn candidates(service: &FeatureService) -> impl Iterator<Item = Candidate> {
    let stale_is_default = service.on_stale == OnStale::Default;
    service.features.iter().map(move |reference| Candidate { reference: reference.clone(), stale_is_default })
}

/// Every feature there is, with the policy of no service.
fn everything(definitions: &Definitions) -> Vec<Candidate> {
    let stored = definitions.feature_views.values().flat_map(|view| {
        view.features()
            .into_iter()
            .map(|(feature, _)| (view.name.clone(), feature.to_owned()))
            .collect::<Vec<_>>()
    });
    let requested = definitions
        .request_views
        .values()
        .flat_map(|view| view.features.iter().map(|feature| (view.name.clone(), feature.name.clone())));
    let all = stored.chain(requested);
    all.map(|(view, feature)| Candidate { reference: FeatureRef { view, feature }, stale_is_default: false })
        .collect()
}

/// The offered features that an item names.
fn named<'a>(
    offered: &'a [Candidate],
    item: &str,
    services: &[&FeatureService],
) -> Result<Vec<&'a Candidate>> {
    let all = |test: &dyn Fn(&FeatureRef) -> bool| -> Vec<&'a Candidate> {
        offered.iter().filter(|candidate| test(&candidate.reference)).collect()
    };
    let item = item.trim();
    let found = match item.split_once(':') {
        Some((view, "*")) => all(&|reference| reference.view == view),
        Some((view, feature)) => all(&|reference| reference.view == view && reference.feature == feature),
        None => {
            let features = all(&|reference| reference.feature == item);
            let views: BTreeSet<&str> = features.iter().map(|f| f.reference.view.as_str()).collect();
            if views.len() > 1 {
                let choices: Vec<String> = views.iter().map(|view| format!("`{view}:{item}`")).collect();
                return Err(LakeError::new(
                    "ambiguous_feature",
                    format!("`{item}` is a feature of {} views", views.len()),
                )
                .hint(format!("say which: {}", choices.join(" or "))));
            }
            if features.is_empty() { all(&|reference| reference.view == item) } else { features }
        }
    };
    if found.is_empty() { Err(unknown(offered, item, services)) } else { Ok(found) }
}

fn unknown(offered: &[Candidate], item: &str, services: &[&FeatureService]) -> LakeError {
    let of = match services {
        [] => "the definitions have".to_owned(),
        [one] => format!("service `{}` has", one.name),
        several => {
            let names: Vec<String> = several.iter().map(|service| format!("`{}`", service.name)).collect();
            format!("services {} have", names.join(", "))
        }
    };
    let error = LakeError::new("unknown_feature", format!("{of} no feature or view `{item}`"));
    let names: BTreeSet<String> = offered
        .iter()
        .flat_map(|Candidate { reference, .. }| match item.contains(':') {
            true => vec![reference.to_string()],
            false => vec![reference.feature.clone(), reference.view.clone()],
        })
        .collect();
    let hint = did_you_mean(item, names.iter().map(String::as_str));
    error.hint(hint.unwrap_or_else(|| "write `feature`, `view` or `view:feature`".to_owned()))
}

fn column_name(candidate: &Candidate, offered: &[&Candidate], services: &[&FeatureService]) -> String {
    let Candidate { reference, stale_is_default } = candidate;
    let with =
        |test: &dyn Fn(&FeatureRef) -> bool| offered.iter().filter(|other| test(&other.reference)).count();
    if with(&|other| other == reference) > 1 {
        let of = services.iter().find(|service| {
            (service.on_stale == OnStale::Default) == *stale_is_default
                && service.features.contains(reference)
        });
        return of.map_or_else(|| reference.to_string(), |service| format!("{}/{reference}", service.name));
    }
    if with(&|other| other.feature == reference.feature) > 1 {
        return reference.to_string();
    }
    reference.feature.clone()
}

/// What a service calls its features, and which column each is.
fn columns_of(service: &FeatureService, features: &[AskedFeature]) -> ServiceColumns {
    let own: Vec<Candidate> = candidates(service).collect();
    let own_refs: Vec<&Candidate> = own.iter().collect();
    let mut columns = Vec::new();
    for candidate in &own {
        let column = features.iter().find(|asked| {
            asked.reference == candidate.reference && asked.stale_is_default == candidate.stale_is_default
        });
        if let Some(column) = column {
            columns.push((column_name(candidate, &own_refs, &[]), column.name.clone()));
        }
    }
    ServiceColumns { service: service.name.clone(), columns }
}
