"""Mixed-policy data: the student's own beginnings, continued by the teacher."""
