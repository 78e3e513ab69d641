"""The question agent: proposes questions about the target and checks candidates with them."""
