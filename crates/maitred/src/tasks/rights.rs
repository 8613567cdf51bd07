//! Who may do what with tasks, by the rights of its principal.

use engine::Rights;
use store::{Answer, NewTask, Query, Refusal, TaskId, Token};

use super::desk::Desk;
use super::view;
use super::words::{self, Denial};

/// Whether somebody may put a task into its queue, and send its result where it goes.
///
/// # Errors
/// Says what is not allowed.
pub(crate) fn may_enqueue(rights: &Rights, task: &NewTask) -> Result<(), Denial> {
    let then = task.then.iter().map(|step| &step.task_type);
    let back = match &task.postback {
        Some(store::Postback::Task(to)) => Some(to),
        Some(store::Postback::Service(to)) if !rights.call.hold(to.as_bytes()) => {
            return Err(Denial::denied(&format!("calling the service {to:?}")));
        }
        Some(_) | None => None,
    };
    for task_type in std::iter::once(&task.task_type).chain(then).chain(back) {
        if !rights.enqueue.hold(task_type.as_bytes()) {
            return Err(Denial::denied(&format!("enqueueing tasks of type {task_type:?}")));
        }
    }
    Ok(())
}

/// Whether somebody may work tasks of a type.
///
/// # Errors
/// Says what is not allowed.
pub(crate) fn may_serve(rights: &Rights, task_type: &str) -> Result<(), Denial> {
    words::check_type(task_type)?;
    if rights.serve.hold(task_type.as_bytes()) {
        return Ok(());
    }
    Err(Denial::denied(&format!("working tasks of type {task_type:?}")))
}

/// Looking at tasks, and who may.
impl Desk {
    /// One task, if whoever asks may see it.
    pub(crate) async fn look_at(
        &self,
        rights: &Rights,
        id: TaskId,
    ) -> Result<store::TaskView, Denial> {
        let Answer::Task(Some(view)) = self.query(Query::Task(id)).await? else {
            return Err(Refusal::Unknown.into());
        };
        check_sees(rights, &view.task_type)?;
        Ok(*view)
    }

    /// Why a task is not running.
    pub(crate) async fn why(
        &self,
        rights: &Rights,
        id: TaskId,
    ) -> Result<serde_json::Value, Denial> {
        let task = self.look_at(rights, id).await?;
        let Answer::Why(why) = self.query(Query::Why(id)).await? else {
            return Err(Denial::unanswered());
        };
        Ok(view::why(self, &why, self.waiting_for(&task.task_type)))
    }

    /// Whether somebody may cancel or retry a task: whoever may enqueue it.
    pub(crate) async fn check_owner(&self, rights: &Rights, id: TaskId) -> Result<(), Denial> {
        let Answer::Task(Some(view)) = self.query(Query::Task(id)).await? else {
            return Err(Refusal::Unknown.into());
        };
        if rights.administer || rights.enqueue.hold(view.task_type.as_bytes()) {
            return Ok(());
        }
        Err(Denial::denied(&format!("steering tasks of type {:?}", view.task_type)))
    }

    /// Whether somebody may hold these leases. A token is no secret, so what it stands for counts.
    pub(crate) async fn check_holder(
        &self,
        rights: &Rights,
        tokens: &[Token],
    ) -> Result<(), Denial> {
        if rights.serve.is_all() {
            return Ok(());
        }
        for token in tokens {
            if let Answer::Task(Some(view)) = self.query(Query::Task(token.task)).await? {
                may_serve(rights, &view.task_type)?;
            }
        }
        Ok(())
    }
}

/// Whether somebody may see tasks of a type: whoever may enqueue or work them.
///
/// # Errors
/// If not.
pub(crate) fn check_sees(rights: &Rights, task_type: &str) -> Result<(), Denial> {
    let name = task_type.as_bytes();
    if rights.administer || rights.enqueue.hold(name) || rights.serve.hold(name) {
        return Ok(());
    }
    Err(Denial::denied(&format!("seeing tasks of type {task_type:?}")))
}
