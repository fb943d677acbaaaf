//! Values of policies that no request has, so that what compares with them never holds.

use fairway_core::source::Objects;
use fairway_core::source::istio::Operation;

use super::{Message, codes, message};

/// What comes of such a value where it is to leave requests out.
const EXCLUDES_NOTHING: &str = ", so this excludes nothing";

/// All of them.
pub(super) fn look(objects: &Objects) -> Vec<Message> {
    let mut messages = Vec::new();
    for (key, policy) in objects.authorization_policies.iter() {
        for (rule, it) in policy.spec.rules.iter().enumerate() {
            for (to, operation) in it.to.iter().enumerate().filter_map(|(to, it)| Some((to, it.operation.as_ref()?))) {
                for (field, said) in of(operation) {
                    let field = format!("spec.rules[{rule}].to[{to}].operation.{field}");
                    messages.push(message(codes::NEVER, Some(key.clone()), &field, said, None));
                }
            }
        }
    }
    messages
}

/// The fields of an operation with such values, and why.
fn of(operation: &Operation) -> Vec<(String, String)> {
    let Operation { methods, not_methods, paths, not_paths, .. } = operation;
    let mut found = Vec::new();
    for (field, values, follows) in [("methods", methods, ""), ("notMethods", not_methods, EXCLUDES_NOTHING)] {
        // RFC 9110 §9.1: names of methods are told apart by case, and those that are registered are in capitals.
        let odd = values.iter().enumerate().filter(|(_, value)| value.chars().any(|it| it.is_ascii_lowercase()));
        found.extend(odd.map(|(index, value)| {
            let said = format!("no request has the method {value:?}{follows}; write {:?}", value.to_ascii_uppercase());
            (format!("{field}[{index}]"), said)
        }));
    }
    for (field, values, follows) in [("paths", paths, ""), ("notPaths", not_paths, EXCLUDES_NOTHING)] {
        // A template may begin with a part that stands for anything.
        let odd = values.iter().enumerate().filter(|(_, value)| !value.starts_with(['/', '*', '{']));
        found.extend(odd.map(|(index, value)| {
            (
                format!("{field}[{index}]"),
                format!("no path is {value:?}{follows}; all begin with /: write {:?}", format!("/{value}")),
            )
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_request_has_is_told() {
        let own = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        let operation = Operation {
            methods: own(&["GET", "delete", "P*"]),
            not_paths: own(&["/a", "admin", "*/b", "{**}/c"]),
            ..Operation::default()
        };
        let fields: Vec<String> = of(&operation).into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["methods[1]", "notPaths[1]"]);
    }
}
