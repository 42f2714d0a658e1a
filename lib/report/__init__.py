"""Tables, figures and sentences of the explored data and of the comparison."""
