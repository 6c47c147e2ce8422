"""The two HTTP listeners: messenger API and operator API. They never share a port; messenger.yaml and operator.yaml are their contracts."""
