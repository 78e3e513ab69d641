"""The question agent: proposes yes/no questions about the target and checks candidates with them."""
