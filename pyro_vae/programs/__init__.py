"""What any program is: model and guide, parameters, plates, traces, and the log weights of its rows."""
