"""The edge: parse, authorise, call, render. The only place that knows HTTP."""
