//! Where the fields of a resource stand.
//!
//! In: the places of a node and of what is in it. Out: the place of a field path. A tree, because
//! a list of paths grows with the square of a file's size: a name of a megabyte before a list of a
//! hundred thousand entries would stand in each of their paths.

use super::Place;

/// Place of a node, and of everything in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Places {
    pub(super) own: Place,
    pub(super) inside: Inside,
}

/// What is in a node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Inside {
    Nothing,
    List(Vec<Places>),
    /// By name, in the order of the file.
    Mapping(Vec<(String, Places)>),
}

impl Places {
    /// The place at `path`; of one that is absent, that of the nearest node around it.
    pub(super) fn find(&self, path: &str) -> Place {
        self.walk(path, 0).1.own
    }

    /// The field `name` of this node, taken out.
    pub(super) fn take(&mut self, name: &str) -> Option<Places> {
        let Inside::Mapping(fields) = &mut self.inside else { return None };
        let index = fields.iter().position(|(field, _)| field == name)?;
        Some(fields.swap_remove(index).1)
    }

    /// How many bytes of the path lead to a node, and the node. `done` bytes have led here. Names
    /// may contain dots and brackets, so of several ways the one that leads furthest is taken; each
    /// node is met on one way at most.
    fn walk(&self, path: &str, done: usize) -> (usize, &Places) {
        let here = (done, self);
        let Some(rest) = path.get(done..).filter(|rest| !rest.is_empty()) else { return here };
        match &self.inside {
            Inside::Nothing => here,
            Inside::List(entries) => {
                let index = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
                let entry = index.and_then(|(index, _)| {
                    Some((index.len() + 2, entries.get(index.parse::<usize>().ok()?)?))
                });
                entry.map_or(here, |(length, entry)| entry.walk(path, done + length))
            }
            Inside::Mapping(fields) => {
                // At the beginning of a path there is no dot.
                let name = if done == 0 { Some(rest) } else { rest.strip_prefix('.') };
                let Some(name) = name else { return here };
                let start = path.len() - name.len();
                let fields = fields.iter().filter(|(field, _)| {
                    name.strip_prefix(field.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
                });
                let ways = fields.map(|(field, places)| places.walk(path, start + field.len()));
                ways.max_by_key(|(length, _)| *length).unwrap_or(here)
            }
        }
    }
}
