"""Teachers, the student and its distillation. torch lives here; `edge` never imports it."""
