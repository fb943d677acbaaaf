//! Walks the tree of a template with values.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::functions;
use super::parse::{Command, Node, Operand, Pipeline};
use super::{Failure, Result};

/// How deep templates may include each other: beyond it, one includes itself.
const MAXIMUM_DEPTH: usize = 64;

/// What a list of nodes becomes.
pub(super) fn render(nodes: &[Node], defined: &BTreeMap<String, Vec<Node>>, dot: &Value) -> Result<String> {
    of_depth(nodes, defined, dot, 0)
}

fn of_depth(nodes: &[Node], defined: &BTreeMap<String, Vec<Node>>, dot: &Value, depth: usize) -> Result<String> {
    let mut walk = Walk { defined, variables: vec![(String::new(), dot.clone())], output: String::new(), depth };
    walk.list(nodes, dot)?;
    Ok(walk.output)
}

struct Walk<'a> {
    defined: &'a BTreeMap<String, Vec<Node>>,
    /// The innermost last; `$` is the first, without a name.
    variables: Vec<(String, Value)>,
    output: String,
    depth: usize,
}

impl Walk<'_> {
    fn list(&mut self, nodes: &[Node], dot: &Value) -> Result<()> {
        let known = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
        }
        self.variables.truncate(known);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<()> {
        match node {
            Node::Text(text) => self.output.push_str(text),
            Node::Output(pipeline, line) => {
                let value = self.pipeline(pipeline, dot, *line)?;
                self.output.push_str(&functions::text(&value));
            }
            Node::Remember(name, pipeline, line) => {
                let value = self.pipeline(pipeline, dot, *line)?;
                self.variables.push((name.clone(), value));
            }
            Node::If(branches, otherwise) => {
                for (condition, body, line) in branches {
                    if functions::is_true(&self.pipeline(condition, dot, *line)?) {
                        return self.list(body, dot);
                    }
                }
                self.list(otherwise, dot)?;
            }
            Node::With(pipeline, body, otherwise, line) => {
                let value = self.pipeline(pipeline, dot, *line)?;
                if functions::is_true(&value) {
                    self.list(body, &value)?;
                } else {
                    self.list(otherwise, dot)?;
                }
            }
            Node::Range { names, of, each, none, line } => {
                let elements = match self.pipeline(of, dot, *line)? {
                    Value::Array(items) => (0_usize..).map(|index| json!(index)).zip(items).collect(),
                    Value::Object(fields) => fields.into_iter().map(|(key, value)| (json!(key), value)).collect(),
                    Value::Null => Vec::new(),
                    other => return Err(Failure::new(*line, format!("cannot go through {other}"))),
                };
                if elements.is_empty() {
                    return self.list(none, dot);
                }
                for (key, value) in elements {
                    let known = self.variables.len();
                    match names.as_slice() {
                        [one] => self.variables.push((one.clone(), value.clone())),
                        [first, second] => {
                            self.variables.extend([(first.clone(), key), (second.clone(), value.clone())]);
                        }
                        _ => {}
                    }
                    self.list(each, &value)?;
                    self.variables.truncate(known);
                }
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value, line: usize) -> Result<Value> {
        let mut last = None;
        for command in pipeline {
            last = Some(self.command(command, last, dot, line)?);
        }
        Ok(last.unwrap_or_default())
    }

    fn command(&mut self, command: &Command, last: Option<Value>, dot: &Value, line: usize) -> Result<Value> {
        let (Some(first), rest) = (command.first(), command.get(1..).unwrap_or_default()) else {
            return Err(Failure::new(line, "a command is missing"));
        };
        let Operand::Function(name) = first else {
            if !rest.is_empty() || last.is_some() {
                return Err(Failure::new(line, "only functions take arguments"));
            }
            return self.operand(first, dot, line);
        };
        let mut arguments = Vec::new();
        for operand in rest {
            let value = self.operand(operand, dot, line)?;
            // Go does not look at what cannot change the answer any more.
            let decides =
                (name == "and" && !functions::is_true(&value)) || (name == "or" && functions::is_true(&value));
            if decides {
                return Ok(value);
            }
            arguments.push(value);
        }
        arguments.extend(last);
        if name == "include" {
            return self.include(&arguments, line);
        }
        functions::call(name, &arguments).map_err(|message| Failure::new(line, message))
    }

    fn include(&self, arguments: &[Value], line: usize) -> Result<Value> {
        let [Value::String(name), dot] = arguments else {
            return Err(Failure::new(line, "`include` takes a name and a value"));
        };
        let body = self.defined.get(name).ok_or_else(|| Failure::new(line, format!("{name:?} is not defined")))?;
        if self.depth == MAXIMUM_DEPTH {
            return Err(Failure::new(line, format!("{name:?} includes itself")));
        }
        of_depth(body, self.defined, dot, self.depth + 1).map(Value::String)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value, line: usize) -> Result<Value> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Group(pipeline) => self.pipeline(pipeline, dot, line),
            Operand::Function(name) => functions::call(name, &[]).map_err(|message| Failure::new(line, message)),
            Operand::Path(None, fields) => field(dot, fields, line),
            Operand::Path(Some(name), fields) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) = known.ok_or_else(|| Failure::new(line, format!("${name} is not defined")))?;
                field(value, fields, line)
            }
        }
    }
}

/// The value below `fields`; null when the last one is missing, as with Helm.
fn field(from: &Value, fields: &[String], line: usize) -> Result<Value> {
    let mut value = from;
    for name in fields {
        value = match value {
            Value::Object(object) => object.get(name).unwrap_or(&Value::Null),
            other => return Err(Failure::new(line, format!("there is no field {name} in {other}"))),
        };
    }
    Ok(value.clone())
}
